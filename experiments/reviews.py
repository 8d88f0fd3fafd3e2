"""Reviews as a network takes them: windows of word numbers, and a label for each.

The words are numbered as Keras' `imdb.npz` and its `load_data(num_words)` number them: 0 fills the
window, 1 starts a review, 2 stands for a rare word, and a word of frequency rank r (the most
frequent has rank 1) is r + 3. Ranks are counted over the training reviews; among equals, the word
met first comes first. A word that the training reviews lack is left out, as Keras' `Tokenizer`
leaves it out; one that they have but whose number is `num_words` or more becomes 2.
"""

import os
import re
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from experiments import corpus
from experiments.corpus import Texts

Source = Literal["auto", "imdb", "generated"]

IMDB = "imdb_reviews"
GENERATED = "generated reviews (NOT IMDB)"

PAD, START, RARE, INDEX_FROM = 0, 1, 2, 3
# Keras' filters: every punctuation mark but the apostrophe, and "<br />" leaves the word "br".
_WORD = re.compile(r'[^ !"#$%&()*+,\-./:;<=>?@\[\\\]^_`{|}~\t\n]+')

_ADVICE = """\
To supply the data, name a folder that holds imdb_reviews/plain_text/1.0.0 (or its archive, as
downloads/manual/aclImdb_v1.tar.gz) by --data-dir or by the environment variable TFDS_DATA_DIR, or
run this where tensorflow-datasets is installed and can download. To do without, choose the
generated reviews."""


class DataUnavailable(RuntimeError):
    """The IMDB reviews cannot be had; the message has the cause and what to do about it."""


class Split(NamedTuple):
    """Reviews as arrays: `tokens`, (N, maxlen) int32, and `labels`, (N,) float32 of 0 and 1."""

    tokens: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True)
class Reviews:
    """A data set of reviews.

    Attributes:
        name: which reviews these are, for every report of a result: `IMDB` or `GENERATED`.
        train, test: the splits.
        vocabulary: the word of each number, fewer than or exactly `num_words`.
        words: all words of the training reviews, by rank; those beyond the vocabulary are rare.
    """

    name: str
    train: Split
    test: Split
    vocabulary: list[str]
    words: list[str]

    @property
    def is_imdb(self) -> bool:
        """Whether these are the real reviews."""
        return self.name == IMDB


def load(
    source: Source = "auto",
    *,
    data_dir: str | os.PathLike[str] | None = None,
    num_words: int = 10_000,
    maxlen: int = 80,
    limit: int | None = None,
    seed: int = 0,
) -> Reviews:
    """Loads reviews and numbers their words.

    Args:
        source: "imdb" for the real reviews, "generated" for those of `corpus`, "auto" for the real
            ones where they can be had, else, after a warning on stderr, the generated ones.
        data_dir: where the real ones are or go to; None leaves the choice to tfds.
        num_words: numbers are below this; at least 4.
        maxlen: the length of a window, at least 1. A longer review keeps its LAST `maxlen` numbers,
            a shorter one is filled with 0 in FRONT.
        limit: no more than so many reviews in each split, for a quick look; None is all, 25,000.
        seed: of the generated reviews. The real ones come in the order of the data set.

    Raises:
        DataUnavailable: the real reviews are asked for, by "imdb", and cannot be had.
        ValueError: an argument is out of range.
    """
    if source not in ("auto", "imdb", "generated"):
        raise ValueError(f"source must be 'auto', 'imdb' or 'generated', got {source!r}")
    for argument, value, least in (
        ("num_words", num_words, INDEX_FROM + 1),
        ("maxlen", maxlen, 1),
        ("limit", 1 if limit is None else limit, 1),
    ):
        if value < least:
            raise ValueError(f"{argument} must be at least {least}, got {value}")
    name, train, test = load_texts(source, data_dir, limit, seed)
    words = rank(train.texts)
    numbers = number(words)

    def split(texts: Texts) -> Split:
        return Split(
            encode(texts.texts, numbers, num_words=num_words, maxlen=maxlen),
            texts.labels.astype(np.float32),
        )

    specials = ["<pad>", "<start>", "<rare>", "<unused>"]
    return Reviews(name, split(train), split(test), (specials + words)[:num_words], words)


def tokenize(text: str) -> list[str]:
    """The words of a text: in lower case, split at spaces and punctuation, apostrophes kept.

    As in Keras' `text_to_word_sequence`, only " " and the filtered characters separate words.
    """
    return _WORD.findall(text.lower())


def rank(texts: Iterable[str]) -> list[str]:
    """The words of the texts, the most frequent first; among equals, the first met comes first."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(tokenize(text))
    return [word for word, _ in counts.most_common()]


def number(words: Sequence[str]) -> dict[str, int]:
    """The number of each word, from words by rank."""
    return {word: number for number, word in enumerate(words, INDEX_FROM + 1)}


def encode(texts: Sequence[str], numbers: dict[str, int], *, num_words: int, maxlen: int) -> np.ndarray:
    """Turns N texts into an (N, maxlen) int32 array.

    `numbers` gives the number of each known word. Unknown words are left out, numbers that reach
    `num_words` become `RARE`, and each text begins with `START` before it is cut or filled.
    """
    tokens = np.full((len(texts), maxlen), PAD, np.int32)
    for row, text in zip(tokens, texts, strict=True):
        known = [numbers[word] for word in tokenize(text) if word in numbers]
        kept = [START, *known][-maxlen:]
        row[maxlen - len(kept) :] = kept
    tokens[tokens >= num_words] = RARE
    return tokens


def load_texts(
    source: Source, data_dir: str | os.PathLike[str] | None = None, limit: int | None = None, seed: int = 0
) -> tuple[str, Texts, Texts]:
    """What `load` numbers the words of: the name of the data set, and both splits; see there."""
    if source != "generated":
        try:
            train, test = _imdb(data_dir)
            cut = slice(limit)
            return (
                IMDB,
                Texts(train.texts[cut], train.labels[cut]),
                Texts(test.texts[cut], test.labels[cut]),
            )
        except DataUnavailable as error:
            if source == "imdb":
                raise
            _warn(error)
    size = 25_000 if limit is None else min(limit, 25_000)
    return GENERATED, *corpus.generate(size, size, seed=seed)


def _imdb(data_dir: str | os.PathLike[str] | None) -> tuple[Texts, Texts]:
    # Whatever keeps the data away, from a missing package to a broken file, is the cause to name.
    try:
        from experiments import imdb_source

        return imdb_source.read(data_dir)
    except Exception as cause:
        place = data_dir or os.environ.get("TFDS_DATA_DIR") or "the default folder of tfds"
        raise DataUnavailable(
            f"cannot get the IMDB reviews from {place}.\nCause: {type(cause).__name__}: {cause}\n{_ADVICE}"
        ) from cause


def _warn(error: DataUnavailable) -> None:
    bar = "!" * 78
    print(
        f"\n{bar}\nWARNING: THIS IS NOT IMDB. {error}\n"
        f"Going on with GENERATED reviews; no result below is about IMDB.\n{bar}\n",
        file=sys.stderr,
        flush=True,
    )
