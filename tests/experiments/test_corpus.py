"""The generated reviews mean what their labels say, and only in their order."""

import numpy as np
import pytest

from experiments import corpus
from experiments.reviews import rank, tokenize


@pytest.fixture(scope="module")
def splits() -> tuple[corpus.Texts, corpus.Texts]:
    return corpus.generate(4_000, 2_000, seed=7)


def test_sizes_types_and_balance(splits: tuple[corpus.Texts, corpus.Texts]) -> None:
    for split, size in zip(splits, (4_000, 2_000), strict=True):
        assert len(split.texts) == size
        assert split.labels.shape == (size,)
        assert split.labels.dtype == np.int64
        assert set(split.labels) == {0, 1}
        assert split.labels.mean() == pytest.approx(0.5, abs=0.04)


def test_default_size_is_that_of_imdb() -> None:
    train, test = corpus.generate()
    assert len(train.texts) == len(test.texts) == 25_000
    assert len({*train.texts, *test.texts}) == 50_000


def test_no_text_occurs_twice(splits: tuple[corpus.Texts, corpus.Texts]) -> None:
    train, test = splits
    assert len({*train.texts, *test.texts}) == 6_000


def test_the_seed_decides() -> None:
    first, again, other = (corpus.generate(50, 20, seed=seed) for seed in (3, 3, 4))
    for a, b in zip(first, again, strict=True):
        assert a.texts == b.texts
        np.testing.assert_array_equal(a.labels, b.labels)
    assert first[0].texts != other[0].texts


@pytest.mark.parametrize(
    ("verdict", "label"),
    [
        ("Everybody in our row would call this film lovely.", 1),
        ("Nobody in our row would call this film lovely.", 0),
        ("Everybody I know could say that this film is dull.", 0),
        ("Nobody I know could say that this film is dull.", 1),
        ("My sister called this film awful and I think she was right.", 0),
        ("My sister called this film awful and I think she was wrong.", 1),
        ("I would surely tell a friend that this film is gripping.", 1),
        ("I would hardly tell a friend that this film is gripping.", 0),
    ],
)
def test_the_verdict_decides_the_label(verdict: str, label: int) -> None:
    train, test = corpus.generate(seed=1)
    labels = [
        found
        for split in (train, test)
        for text, found in zip(split.texts, split.labels, strict=True)
        if verdict in text
    ]
    assert len(labels) > 10
    assert set(labels) == {label}


def test_one_verdict_early_and_all_of_it_in_the_window(
    splits: tuple[corpus.Texts, corpus.Texts],
) -> None:
    words = [tokenize(text) for text in splits[0].texts]
    assert all(sentence.count("film") == 1 for sentence in words)
    assert max(sentence.index("film") for sentence in words) < 20
    assert max(map(len, words)) <= corpus.LONGEST
    after = [len(sentence) - sentence.index("film") for sentence in words]
    assert np.quantile(after, 0.25) < 15 and np.quantile(after, 0.9) > 35


def test_counting_words_does_not_tell_the_label(splits: tuple[corpus.Texts, corpus.Texts]) -> None:
    train, test = splits
    columns = {word: i for i, word in enumerate(rank(train.texts))}

    def counts(texts: list[str]) -> np.ndarray:
        table = np.zeros((len(texts), len(columns) + 1))
        table[:, -1] = 1
        for row, text in zip(table, texts, strict=True):
            np.add.at(row, [columns[word] for word in tokenize(text) if word in columns], 1)
        return table

    x, weights = counts(train.texts), np.zeros(len(columns) + 1)
    for _ in range(10):  # Newton's method on a logistic regression with a slight penalty
        p = 1 / (1 + np.exp(-x @ weights))
        gradient = x.T @ (p - train.labels) + 0.1 * weights
        hessian = (x.T * (p * (1 - p))) @ x + 0.1 * np.eye(len(weights))
        weights -= np.linalg.solve(hessian, gradient)
    accuracy = np.mean((counts(test.texts) @ weights > 0) == test.labels)
    assert accuracy < 0.56


@pytest.mark.parametrize(("sizes", "named"), [((0, 5), "train_size"), ((5, -1), "test_size")])
def test_a_size_below_one_is_refused(sizes: tuple[int, int], named: str) -> None:
    with pytest.raises(ValueError, match=f"{named} must be at least 1, got {min(sizes)}"):
        corpus.generate(*sizes)
