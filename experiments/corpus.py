"""Generated film reviews, for where the real ones cannot be had. They are NOT IMDB.

A review says what was expected, gives one verdict on the film, and goes on with up to five asides
on other things. The verdict alone decides the label, and one verdict in four is turned round by a
word some way off: "Nobody in our row would call this film dull" is praise. The expectation always
uses the opposite sort of word, and the asides praise and blame just as loudly, are turned round
just as often, and know nothing of the label. So

* counting words tells nothing: what a word is worth depends on where it stands;
* the answer is in the first words, and whatever follows tries to wash it away. A network has to
  carry it to the last step, which an LSTM or a GRU learns to do and a plain recurrent layer
  hardly does. Short reviews are frequent enough for the learning to start from them.

No review is longer than `LONGEST` words, so a window of 80 tokens shows all of it and the start.
"""

from itertools import product
from typing import NamedTuple

import numpy as np

LONGEST = 79
MOST_ASIDES = 5

GOOD = (
    "wonderful",
    "superb",
    "brilliant",
    "delightful",
    "charming",
    "gripping",
    "moving",
    "lovely",
)
BAD = ("terrible", "awful", "dull", "boring", "dreadful", "clumsy", "horrible", "ugly")

# Sentences take one word from PLAIN, or the word at the same place in TURNED, which reverses them.
PLAIN = ("everybody", "always", "surely", "right")
TURNED = ("nobody", "never", "hardly", "wrong")
TURNED_OR_NOT = (False, False, False, True)

OPENINGS = (
    "We saw it {when} and expected something {adjective}",
    "I went {when} and was ready for something {adjective}",
    "the title sounds {adjective} but we saw it {when}",
    "it was {when} and my mood was {adjective}",
)
WHEN = (
    "last night", "on Sunday", "in May", "on video", "at sea", "after work", "at noon",
    "at home", "on holiday", "by chance", "in Rome", "at school",
)  # fmt: skip
VERDICTS = (
    "{0} in our row would call this film {adjective}",
    "{0} I know could say that this film is {adjective}",
    "this film was {1} once in two long hours {adjective}",
    "it is {1} fair to say that this film is {adjective}",
    "I would {2} tell a friend that this film is {adjective}",
    "one can {2} leave the cinema and find this film {adjective}",
    "my sister called this film {adjective} and I think she was {3}",
    "the papers called this film {adjective} and for once they're {3}",
)
ASIDES = (
    "{thing} was {1} {adjective}",
    "{thing} is {2} {adjective} on a weekday",
    "{0} said that {thing} was {adjective}",
    "{0} I asked found {thing} {adjective}",
    "I thought {thing} was {adjective} but I was {3}",
    "they say {thing} is {adjective} and they're {3}",
)
THINGS = (
    "the popcorn", "my seat", "the weather", "the bus ride", "our dinner", "the man behind us",
    "the trailer before it", "the carpet", "my new coat", "the coffee", "the queue outside",
    "her phone", "the poster", "our neighbour's dog", "the parking lot", "the song",
)  # fmt: skip


class Texts(NamedTuple):
    """One split: `texts`, N strings, and `labels`, (N,) int64, 0 for negative, 1 for positive."""

    texts: list[str]
    labels: np.ndarray


def generate(train_size: int = 25_000, test_size: int = 25_000, *, seed: int = 0) -> tuple[Texts, Texts]:
    """Draws a train and a test split from the same grammar; no text occurs twice in the two.

    Args:
        train_size, test_size: the number of reviews in each, at least 1.
        seed: the same seed gives the same reviews.

    Raises:
        ValueError: a size is less than 1.
    """
    for name, size in (("train_size", train_size), ("test_size", test_size)):
        if size < 1:
            raise ValueError(f"{name} must be at least 1, got {size}")
    rng = np.random.default_rng(seed)
    found: dict[str, int] = {}
    while missing := train_size + test_size - len(found):
        found.update(_draw(missing, rng))
    # Texts drawn to replace duplicates are longer than most: shuffled, both splits get their share.
    order = rng.permutation(len(found))
    texts, labels = list(found), np.fromiter(found.values(), np.int64)[order]
    texts = [texts[i] for i in order]
    return (
        Texts(texts[:train_size], labels[:train_size]),
        Texts(texts[train_size:], labels[train_size:]),
    )


def _draw(size: int, rng: np.random.Generator) -> dict[str, int]:
    """At most `size` different reviews and their labels."""
    openings = rng.integers(len(_OPENINGS[True]), size=size)
    verdicts = rng.integers(len(_VERDICTS), size=size)
    counts = rng.integers(MOST_ASIDES + 1, size=(2, size)).min(axis=0)
    asides = rng.integers(len(_ASIDES), size=(size, MOST_ASIDES))
    drawn: dict[str, int] = {}
    for opening, verdict, count, chosen in zip(openings, verdicts, counts, asides, strict=True):
        sentence, good, label = _VERDICTS[verdict]
        parts = [_OPENINGS[not good][opening], sentence, *(_ASIDES[i] for i in chosen[:count])]
        drawn[" ".join(parts)] = label
    return drawn


def _sentence(template: str, turned: bool, **words: str) -> str:
    text = template.format(*(TURNED if turned else PLAIN), **words)
    return text[0].upper() + text[1:] + "."


_OPENINGS = {
    good: [
        _sentence(template, False, when=when, adjective=adjective)
        for template, when, adjective in product(OPENINGS, WHEN, GOOD if good else BAD)
    ]
    for good in (False, True)
}
_VERDICTS = [
    (_sentence(template, turned, adjective=adjective), good, int(good != turned))
    for template, turned, good in product(VERDICTS, TURNED_OR_NOT, (False, True))
    for adjective in (GOOD if good else BAD)
]
_ASIDES = [
    _sentence(template, turned, thing=thing, adjective=adjective)
    for template, thing, turned, adjective in product(ASIDES, THINGS, TURNED_OR_NOT, GOOD + BAD)
]
