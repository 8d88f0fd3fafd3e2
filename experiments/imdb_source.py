"""The real reviews: `imdb_reviews` of TensorFlow Datasets, without TensorFlow.

tensorflow-datasets reads prepared data without TensorFlow but, as of 4.9.10, prepares it only with
TensorFlow, which it uses to open the downloaded archive (tensorflow/datasets#11058). The subclass
below opens the archive with `tarfile` and leaves everything else to the library: name, config,
version, features, examples, download, checksum and files are those of the stock builder, so each
reads what the other has prepared.

Source: Maas et al., "Learning Word Vectors for Sentiment Analysis", ACL 2011.
"""

import inspect
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
import requests
import tensorflow_datasets as tfds

from experiments.corpus import Texts

ARCHIVE = "aclImdb_v1"
URL = f"http://ai.stanford.edu/~amaas/data/sentiment/{ARCHIVE}.tar.gz"
READABLE = ("array_record", "parquet")

_Stock: Any = tfds.builder_cls("imdb_reviews")


# Not registered, so that tfds.builder("imdb_reviews") goes on to mean the stock class.
class ImdbReviews(_Stock, skip_registration=True):  # pyright: ignore (a base known at run time)
    """The stock builder of `imdb_reviews`, able to prepare the data without TensorFlow."""

    name = "imdb_reviews"
    # The checksums lie beside the stock code. Saying so also spares tfds from looking for the code
    # by way of `importlib_resources`, which it does not declare (tensorflow/datasets#11212).
    code_path = Path(inspect.getfile(_Stock))

    def _split_generators(self, dl_manager: Any) -> Any:
        return super()._split_generators(_PlainArchives(dl_manager))


class _PlainArchives:
    """The two things that the stock builder asks of a download manager."""

    def __init__(self, manager: tfds.download.DownloadManager) -> None:
        self.manager = manager

    def download(self, url: str) -> os.PathLike[str]:
        # Without a network the library retries for over three minutes; this asks once, briefly.
        if not any(Path(self.manager.download_dir).rglob(f"*{ARCHIVE}*.tar.gz")):
            with requests.get(url, stream=True, timeout=10) as response:
                response.raise_for_status()
        return self.manager.download(url)

    def iter_archive(self, path: os.PathLike[str]) -> Iterator[tuple[str, IO[bytes]]]:
        with tarfile.open(path) as archive:
            for member in archive:
                content = archive.extractfile(member)
                if content is not None:
                    yield os.path.normpath(member.name), content


def read(data_dir: str | os.PathLike[str] | None = None) -> tuple[Texts, Texts]:
    """Returns the train and the test split, downloading and preparing them where need be.

    Data that is there already is read as it is, from array_record or parquet files. New data is
    written as array_record: tfrecord cannot be read without TensorFlow, and the parquet writer of
    tfds 4.9.10 loses most of the examples. The `array_record` package comes with tfds on Linux and
    has to be installed by hand elsewhere. An archive put at `downloads/manual/aclImdb_v1.tar.gz`
    in `data_dir` is used in place of a download.

    Args:
        data_dir: the folder that holds, or is to hold, `imdb_reviews/plain_text/1.0.0`. None is
            tfds' own choice: the environment's TFDS_DATA_DIR, else ~/tensorflow_datasets.

    Raises:
        ValueError: the folder holds fewer reviews than it claims, or no description of them.
        NotImplementedError: it holds them as tfrecord.
        Exception: what else tfds, requests or the disk give rise to; without a network,
            `requests.ConnectionError`.
    """
    builder = _prepared(data_dir)
    if not builder.info.splits:
        raise ValueError(f"{builder.data_dir} holds no dataset_info.json that lists the splits")
    if not any(format.value in READABLE for format in builder.info.available_file_formats()):
        raise NotImplementedError(
            f"{builder.data_dir} is prepared as {builder.info.file_format.value}, which needs "
            f"TensorFlow to be read; expected {' or '.join(READABLE)}. Delete it, or name another "
            "data_dir to prepare the data anew"
        )
    return _split(builder, "train"), _split(builder, "test")


def _prepared(data_dir: str | os.PathLike[str] | None) -> ImdbReviews:
    builder = ImdbReviews(data_dir=data_dir)
    try:
        builder.download_and_prepare(
            file_format="array_record",
            download_config=tfds.download.DownloadConfig(force_checksums_validation=True),
        )
    except OSError:
        if not Path(builder.data_dir).is_dir():
            raise
        builder = ImdbReviews(data_dir=data_dir)  # another program has prepared the same meanwhile
    return builder


def _split(builder: Any, name: str) -> Texts:
    source, split = builder.as_data_source(name), builder.info.splits[name]
    expected, held = split.num_examples, len(source)
    if builder.info.file_format.value == "array_record":  # whose source says what the description says
        from array_record.python.array_record_module import ArrayRecordReader  # Linux has it, others may not

        held = sum(ArrayRecordReader(os.fspath(path)).num_records() for path in split.filepaths)
    if not len(source) == held == expected:
        raise ValueError(
            f"{builder.data_dir} should hold {expected} {name} reviews, it holds {held}. "
            "Delete it to prepare the data anew"
        )
    rows = source.__getitems__(range(expected))
    labels = np.array([row["label"] for row in rows], np.int64)
    return Texts([row["text"].decode() for row in rows], labels)
