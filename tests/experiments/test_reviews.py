"""Numbering, cutting and filling as Keras does; where the reviews come from, and who is told."""

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import experiments
from experiments import reviews
from experiments.corpus import Texts

DATA_DIR = Path(
    os.environ.get("TFDS_DATA_DIR") or Path(__file__).resolve().parents[3] / "shared" / "tensorflow_datasets"
)
needs_imdb = pytest.mark.skipif(
    not (DATA_DIR / "imdb_reviews/plain_text/1.0.0").is_dir(),
    reason="the IMDB reviews are not in TFDS_DATA_DIR",
)
TRAIN = Texts(["the cat and the dog", "The END, the end", "a cat"], np.array([1, 0, 1]))
TEST = Texts(["the zebra and a cat!", "zebra"], np.array([0, 1]))


@pytest.fixture
def fake_imdb(monkeypatch: pytest.MonkeyPatch) -> None:
    """Puts the five reviews above in the place of IMDB."""
    source = pytest.importorskip("experiments.imdb_source")
    monkeypatch.setattr(source, "read", lambda data_dir: (TRAIN, TEST))


@pytest.fixture
def no_imdb(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes IMDB fail for a reason that can be recognised."""
    source = pytest.importorskip("experiments.imdb_source")

    def read(data_dir: object) -> None:
        raise OSError(f"the moon is in the way of {data_dir}")

    monkeypatch.setattr(source, "read", read)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("It's GREAT.", ["it's", "great"]),
        ("one-two  three\tfour\nfive", ["one", "two", "three", "four", "five"]),
        ("bad<br /><br />film", ["bad", "br", "br", "film"]),
        ("'quoted' (so_called) [x]^`{|}~", ["'quoted'", "so", "called", "x"]),
        ("Caf\u00c9\u00a0noir \x96 10/10", ["caf\u00e9\u00a0noir", "\x96", "10", "10"]),
        (" ,. ", []),
        ("", []),
    ],
)
def test_tokenize(text: str, words: list[str]) -> None:
    assert reviews.tokenize(text) == words


def test_rank_puts_the_frequent_first_and_equals_in_order_of_appearance() -> None:
    assert reviews.rank(["b a", "c A", "d c!"]) == ["a", "c", "b", "d"]


@pytest.mark.parametrize(
    ("text", "row"),
    [
        ("", [0, 0, 0, 1]),
        ("the end", [0, 1, 4, 5]),
        ("the unheard end", [0, 1, 4, 5]),
        ("the rare end", [1, 4, 2, 5]),
        ("the end the end the", [5, 4, 5, 4]),
    ],
)
def test_encode(text: str, row: list[int]) -> None:
    numbers = {"the": 4, "end": 5, "rare": 6}
    tokens = reviews.encode([text], numbers, num_words=6, maxlen=4)
    assert tokens.dtype == np.int32
    assert tokens.tolist() == [row]


@pytest.mark.parametrize("maxlen", [1, 7, 30])
def test_encode_cuts_and_fills_as_keras(maxlen: int) -> None:
    os.environ.setdefault("KERAS_BACKEND", "jax")
    keras = pytest.importorskip("keras")
    rng = np.random.default_rng(0)
    sequences = [[1, *rng.integers(4, 50, size=rng.integers(0, 20)).tolist()] for _ in range(40)]
    texts = [" ".join(f"w{number}" for number in sequence[1:]) for sequence in sequences]
    tokens = reviews.encode(texts, {f"w{number}": number for number in range(4, 50)}, num_words=50, maxlen=maxlen)
    np.testing.assert_array_equal(tokens, keras.utils.pad_sequences(sequences, maxlen=maxlen))


@pytest.mark.usefixtures("fake_imdb")
def test_load_numbers_words_by_their_rank_in_training() -> None:
    # Counts: the 4; cat 2; end 2; and, dog, a 1 each.
    loaded = reviews.load("imdb", num_words=8, maxlen=5)
    assert loaded.name == "imdb_reviews"
    assert loaded.vocabulary == [
        "<pad>", "<start>", "<rare>", "<unused>", "the", "cat", "end", "and",
    ]  # fmt: skip
    assert loaded.train.tokens.tolist() == [
        [4, 5, 7, 4, 2],
        [1, 4, 6, 4, 6],
        [0, 0, 1, 2, 5],
    ]
    assert loaded.test.tokens.tolist() == [[1, 4, 7, 2, 5], [0, 0, 0, 0, 1]]
    assert loaded.train.labels.tolist() == [1.0, 0.0, 1.0]
    assert loaded.test.labels.dtype == np.float32


@pytest.mark.usefixtures("fake_imdb")
def test_limit_keeps_the_first_of_each_split() -> None:
    loaded = reviews.load("auto", maxlen=6, limit=1)
    assert loaded.name == "imdb_reviews"
    assert loaded.train.tokens.tolist() == [[1, 4, 5, 6, 4, 7]]
    assert loaded.test.tokens.tolist() == [[0, 0, 1, 4, 6, 5]]
    assert loaded.test.labels.tolist() == [0.0]


def test_generated_reviews_are_called_so_and_decode_to_their_texts() -> None:
    loaded = reviews.load("generated", limit=20, seed=5)
    assert loaded.name == "generated reviews (NOT IMDB)"
    assert loaded.train.tokens.shape == loaded.test.tokens.shape == (20, 80)
    train, _ = reviews.corpus.generate(20, 20, seed=5)
    for row, label, text, expected in zip(
        loaded.train.tokens, loaded.train.labels, train.texts, train.labels, strict=True
    ):
        words = [loaded.vocabulary[token] for token in row if token]
        assert words == ["<start>", *reviews.tokenize(text)]
        assert label == expected


@pytest.mark.usefixtures("no_imdb")
def test_imdb_is_never_replaced() -> None:
    with pytest.raises(reviews.DataUnavailable) as error:
        reviews.load("imdb", data_dir="/some/where")
    for part in (
        "/some/where",
        "OSError: the moon",
        "TFDS_DATA_DIR",
        "--data-dir",
        "imdb_reviews/plain_text/1.0.0",
    ):
        assert part in str(error.value)
    assert isinstance(error.value.__cause__, OSError)


@pytest.mark.usefixtures("no_imdb")
def test_auto_replaces_imdb_and_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    loaded = reviews.load("auto", data_dir="/some/where", limit=3)
    assert loaded.name == "generated reviews (NOT IMDB)"
    warning = capsys.readouterr().err
    for part in (
        "THIS IS NOT IMDB",
        "OSError: the moon is in the way of /some/where",
        "TFDS_DATA_DIR",
        "--data-dir",
        "GENERATED",
    ):
        assert part in warning


@pytest.mark.usefixtures("fake_imdb")
def test_auto_is_silent_where_imdb_is_there(capsys: pytest.CaptureFixture[str]) -> None:
    reviews.load("auto")
    assert capsys.readouterr().err == ""


def test_auto_goes_on_without_tensorflow_datasets(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    monkeypatch.delitem(sys.modules, "experiments.imdb_source", raising=False)
    monkeypatch.delattr(experiments, "imdb_source", raising=False)
    assert reviews.load("auto", limit=2).name == "generated reviews (NOT IMDB)"
    assert "tensorflow_datasets" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"source": "IMDB"}, "source must be 'auto', 'imdb' or 'generated', got 'IMDB'"),
        ({"num_words": 3}, "num_words must be at least 4, got 3"),
        ({"maxlen": 0}, "maxlen must be at least 1, got 0"),
        ({"limit": 0}, "limit must be at least 1, got 0"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, Any], message: str) -> None:
    arguments = {"source": "generated", **arguments}
    with pytest.raises(ValueError, match=message):
        reviews.load(**arguments)


@pytest.mark.full
@needs_imdb
def test_the_real_reviews_are_numbered_as_in_imdb_npz() -> None:
    pytest.importorskip("tensorflow_datasets")
    loaded = reviews.load("imdb", data_dir=DATA_DIR)
    for split in (loaded.train, loaded.test):
        assert split.tokens.shape == (25_000, 80)
        assert split.labels.mean() == 0.5
        assert split.tokens.max() == 9_999
        assert not (split.tokens == 3).any()
    exact = {"the": 1, "br": 7, "this": 11, "was": 13, "with": 16, "film": 19, "you": 22,
             "just": 40, "out": 43, "story": 62, "their": 65, "casting": 970}  # fmt: skip
    ranks = {word: number - 3 for number, word in enumerate(loaded.vocabulary)}
    assert {word: ranks[word] for word in exact} == exact
    # Further down the reading order decides between equals, and that of imdb.npz is not known.
    near = {"brilliant": 527, "themselves": 530, "powerful": 973, "scenery": 1382,
            "loves": 1385, "location": 1619, "lets": 1622}  # fmt: skip
    for word, expected in near.items():
        assert ranks[word] == pytest.approx(expected, abs=3)
