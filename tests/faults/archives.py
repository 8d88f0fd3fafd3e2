"""A small archive in the place of IMDB's, and the experiment as a program that takes it.

    python -m tests.faults.archives ARCHIVE ARGUMENTS

It is ``experiments/imdb.py ARGUMENTS``, for which the checksum of ``ARCHIVE`` is the right one.
"""

import hashlib
import io
import sys
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from experiments import corpus

PREPARED = Path("imdb_reviews") / "plain_text" / "1.0.0"
"""Where TensorFlow Datasets puts what it has prepared."""


def write(path: Path, train: Iterable[bytes], test: Iterable[bytes]) -> None:
    """An archive with these reviews; every other one is favourable."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as archive:
        files = {"aclImdb/train/unsup/0_0.txt": b"no label"}
        for split, texts in (("train", train), ("test", test)):
            for number, text in enumerate(texts):
                files[f"aclImdb/{split}/{('neg', 'pos')[number % 2]}/{number}_5.txt"] = text
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def place(folder: Path, size: int = 160) -> Path:
    """An archive of ``size`` generated reviews a split, where a user puts it by hand; returns its path."""
    path = folder / "downloads" / "manual" / "aclImdb_v1.tar.gz"
    train, test = corpus.generate(size, size, seed=1)
    write(path, *([text.encode() for text in split.texts] for split in (train, test)))
    return path


def trust(path: Path) -> None:
    """Has the checksum of an archive taken for that of the real one."""
    from tensorflow_datasets.core.download import checksums

    from experiments import imdb_source

    content = path.read_bytes()
    info: Any = checksums.UrlInfo(
        size=len(content),  # pyright: ignore (a size of its own kind)
        checksum=hashlib.sha256(content).hexdigest(),
        filename="aclImdb_v1.tar.gz",
    )
    imdb_source.ImdbReviews.url_infos = {imdb_source.URL: info}


if __name__ == "__main__":
    from experiments import imdb

    trust(Path(sys.argv[1]))
    imdb.main(sys.argv[2:])
