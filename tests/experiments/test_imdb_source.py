"""IMDB prepared and read without TensorFlow, in exchange with the stock builder."""

import functools
import hashlib
import http.server
import io
import shutil
import sys
import tarfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

tfds = pytest.importorskip("tensorflow_datasets")
requests = pytest.importorskip("requests")
from tensorflow_datasets.core.download import checksums  # noqa: E402

from experiments import imdb_source  # noqa: E402

REVIEWS = {
    "train": {"A gem.<br />See it!": 1, "Caf\u00e9 noir, quite good": 1, "Dull": 0},
    "test": {"It's fine": 1, "Awful, awful.": 0},
}
FOLDER = Path("imdb_reviews/plain_text/1.0.0")


@functools.cache  # Its bytes hold the time at which it was made.
def _archive() -> bytes:
    """A small aclImdb_v1.tar.gz, with the files that tfds has to pass over."""
    files = {"aclImdb/README": b"notes", "aclImdb/train/unsup/0_0.txt": b"no label"}
    for split, texts in REVIEWS.items():
        files[f"aclImdb/{split}/urls_pos.txt"] = b"http://example.com"
        for i, (text, label) in enumerate(texts.items()):
            files[f"aclImdb/{split}/{('neg', 'pos')[label]}/{i}_5.txt"] = f" {text}\n".encode()
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


class _Server(http.server.BaseHTTPRequestHandler):
    """A proxy that has one answer to everything."""

    def __init__(self, content: bytes, *args: Any) -> None:
        self.content = content
        super().__init__(*args)

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.content)))
        self.end_headers()
        self.wfile.write(self.content)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""


class _NoTensorFlow:
    """An import hook."""

    def find_spec(self, name: str, *args: Any) -> None:
        if name == "tensorflow":
            raise ModuleNotFoundError("TensorFlow was asked for")


def _use_proxy(monkeypatch: pytest.MonkeyPatch, port: int) -> None:
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HTTP_PROXY", "http_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{port}")


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A network that serves the small archive under every address, and no TensorFlow."""
    monkeypatch.setattr(sys, "meta_path", [_NoTensorFlow(), *sys.meta_path])
    handler = functools.partial(_Server, _archive())
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        _use_proxy(monkeypatch, server.server_port)
        yield
        server.shutdown()


@pytest.fixture
def trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Registers the small archive's checksum in the place of the real one's."""
    content = _archive()
    info = checksums.UrlInfo(
        size=len(content),  # pyright: ignore[reportArgumentType]
        checksum=hashlib.sha256(content).hexdigest(),
        filename="aclImdb_v1.tar.gz",
    )
    monkeypatch.setattr(imdb_source.ImdbReviews, "url_infos", {imdb_source.URL: info})


@pytest.fixture
def prepared(tmp_path: Path, network: None, trusted: None) -> Path:
    imdb_source.read(tmp_path)
    return tmp_path


def _as_dict(texts: imdb_source.Texts) -> dict[str, int]:
    return dict(zip(texts.texts, texts.labels.tolist(), strict=True))


def test_prepares_and_reads(tmp_path: Path, network: None, trusted: None) -> None:
    train, test = imdb_source.read(tmp_path)
    assert _as_dict(train) == REVIEWS["train"]
    assert _as_dict(test) == REVIEWS["test"]
    assert (tmp_path / FOLDER / "dataset_info.json").is_file()


def test_the_stock_builder_reads_what_we_prepare(prepared: Path) -> None:
    stock = tfds.builder("imdb_reviews", data_dir=prepared)
    assert type(stock) is not imdb_source.ImdbReviews
    assert stock.info.full_name == "imdb_reviews/plain_text/1.0.0"
    rows = list(stock.as_data_source("train"))
    assert {row["text"].decode(): row["label"] for row in rows} == REVIEWS["train"]
    assert [row["text"] for row in stock.as_data_source("unsupervised")] == [b"no label"]


def test_what_another_program_has_prepared_meanwhile_is_read(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other"
    prepare: Any = imdb_source.ImdbReviews._download_and_prepare

    def overtaken(*args: Any, **options: Any) -> None:
        prepare(*args, **options)
        shutil.copytree(prepared / "imdb_reviews", other / "imdb_reviews", dirs_exist_ok=True)

    monkeypatch.setattr(imdb_source.ImdbReviews, "_download_and_prepare", overtaken)
    assert _as_dict(imdb_source.read(other)[1]) == REVIEWS["test"]
    shutil.rmtree(other)
    monkeypatch.setattr(
        imdb_source.ImdbReviews, "_download_and_prepare", lambda *_, **__: (_ for _ in ()).throw(OSError())
    )
    with pytest.raises(OSError):
        imdb_source.read(other)


def test_an_archive_that_was_downloaded_needs_no_network(prepared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.rmtree(prepared / "imdb_reviews")
    _use_proxy(monkeypatch, port=9)
    assert _as_dict(imdb_source.read(prepared)[1]) == REVIEWS["test"]


def test_an_archive_that_was_put_there_by_hand_needs_no_network(
    tmp_path: Path, trusted: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    _use_proxy(monkeypatch, port=9)
    manual = tmp_path / "downloads/manual"
    manual.mkdir(parents=True)
    (manual / "aclImdb_v1.tar.gz").write_bytes(_archive())
    assert _as_dict(imdb_source.read(tmp_path)[0]) == REVIEWS["train"]


def test_the_checksum_is_the_stock_builders(tmp_path: Path, network: None) -> None:
    info = imdb_source.ImdbReviews.url_infos[imdb_source.URL]
    assert info.checksum == "c40f74a18d3b61f90feba1e17730e0d38e8b97c05fde7008942e91923d1658fe"
    assert info.size == 84_125_825
    with pytest.raises(Exception, match="wrong checksum"):
        imdb_source.read(tmp_path)
    assert not (tmp_path / FOLDER).exists()


def test_no_network_is_found_out_soon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _use_proxy(monkeypatch, port=9)
    start = time.monotonic()
    with pytest.raises(requests.ConnectionError):
        imdb_source.read(tmp_path)
    assert time.monotonic() - start < 12


def test_reads_parquet(tmp_path: Path, network: None, trusted: None) -> None:
    imdb_source.ImdbReviews(data_dir=tmp_path).download_and_prepare(file_format="parquet")
    train, test = imdb_source.read(tmp_path)
    assert _as_dict(train) == REVIEWS["train"]
    assert _as_dict(test) == REVIEWS["test"]


def test_lost_reviews_are_noticed(tmp_path: Path, network: None, trusted: None) -> None:
    imdb_source.ImdbReviews(data_dir=tmp_path).download_and_prepare(file_format="parquet")
    info = tmp_path / FOLDER / "dataset_info.json"
    info.write_text(info.read_text().replace('"3"', '"7"'))
    with pytest.raises(ValueError, match="should hold 7 train reviews, it holds 3"):
        imdb_source.read(tmp_path)


def test_a_description_of_fewer_reviews_than_there_are_is_noticed(prepared: Path) -> None:
    info = prepared / FOLDER / "dataset_info.json"
    info.write_text(info.read_text().replace('"3"', '"2"'))
    with pytest.raises(ValueError, match="should hold 2 train reviews, it holds 3"):
        imdb_source.read(prepared)


def test_tfrecord_is_refused_by_name(prepared: Path) -> None:
    info = prepared / FOLDER / "dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    for file in (prepared / FOLDER).glob("*array_record*"):
        file.rename(file.with_name(file.name.replace("array_record", "tfrecord")))
    with pytest.raises(NotImplementedError, match="prepared as tfrecord, which needs TensorFlow"):
        imdb_source.read(prepared)


def test_a_folder_without_description_is_refused(prepared: Path) -> None:
    (prepared / FOLDER / "dataset_info.json").unlink()
    with pytest.raises(ValueError, match=r"no dataset_info\.json"):
        imdb_source.read(prepared)


@pytest.mark.parametrize("damage", [lambda file: file.unlink(), lambda file: file.write_bytes(b"")])
def test_damaged_files_are_errors(prepared: Path, damage: Any) -> None:
    damage(next((prepared / FOLDER).glob("*train*")))
    with pytest.raises(ValueError, match="should hold 3 train reviews, it holds 0"):
        imdb_source.read(prepared)
