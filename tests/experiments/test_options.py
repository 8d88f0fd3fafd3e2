"""Every option does what it says; those of logs, exports, seeds at once and checkpoints have files of their own."""

import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from rich.console import Console

from experiments import imdb, options, report, reviews, trainer
from experiments.checkpoints import Store
from experiments.model import build
from experiments.optimizers import learning_rate, optimizer

TOKENS = np.random.default_rng(0).integers(1, 50, (6, 9)).astype(np.int32)
SMALL = ("--num-words", "50", "--embedding", "5", "--units", "7")


def model(*more: str, cell: str = "gru") -> Any:
    return build(cell, 0, imdb.parse([*SMALL, *more]))


def count(module: Any) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(module, nnx.Param)))


def test_layers_and_directions_have_the_weights_that_they_should() -> None:
    one, two = 3 * (5 * 7 + 7 * 7 + 2 * 7), 3 * (7 * 7 + 7 * 7 + 2 * 7)
    assert count(model().recurrent) == one
    assert count(model("--layers", "2").recurrent) == one + two
    assert count(model("--bidirectional").recurrent) == 2 * one
    above = 3 * (14 * 7 + 7 * 7 + 2 * 7)
    both = model("--bidirectional", "--layers", "2")
    assert count(both.recurrent) == 2 * one + 2 * above and count(both.dense) == 15


@pytest.mark.parametrize("more", [(), ("--layers", "2")])
def test_the_first_output_depends_on_the_last_word_with_two_directions_only(more: tuple[str, ...]) -> None:
    # The first output of a layer that reads backwards depends on the last word; that of the others does not.
    for flags, depends in (((), False), (("--bidirectional",), True)):
        made = model(*more, *flags)
        made.eval()
        layer = made.recurrent.layers[0] if more else made.recurrent
        for part in (layer.forward_layer, layer.backward_layer) if flags else (layer,):
            part.return_sequences = True
        changed = TOKENS.copy()
        changed[:, -1] = changed[:, -1] % 49 + 1
        first, second = (np.asarray(layer(made.embedding(tokens)))[:, 0] for tokens in (TOKENS, changed))
        assert (np.abs(first - second).max() > 0) == depends


def test_bfloat16_computes_in_it_and_keeps_weights_and_logits() -> None:
    made = model("--dtype", "bfloat16")
    made.eval()
    assert {leaf.dtype for leaf in jax.tree.leaves(nnx.state(made, nnx.Param))} == {jnp.dtype("float32")}
    assert made.recurrent(made.embedding(TOKENS)).dtype == jnp.bfloat16
    logits = made(TOKENS)
    exact = model()
    exact.eval()
    assert logits.dtype == jnp.float32
    assert 0 < np.abs(np.asarray(logits - exact(TOKENS))).max() < 0.05


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ((), lambda step: 0.5),
        (("--schedule", "linear"), lambda step: 0.5 * (1 - step / 20)),
        (("--schedule", "cosine"), lambda step: 0.25 * (1 + np.cos(np.pi * step / 20))),
        (("--warmup", "4"), lambda step: 0.5 * min((step + 1) / 4, 1)),
        (("--schedule", "linear", "--warmup", "4"), lambda step: 0.5 * min((step + 1) / 4, 1 - max(step - 4, 0) / 16)),
    ],
)
def test_learning_rates(more: tuple[str, ...], expected: Any) -> None:
    rate = learning_rate(imdb.parse(["--learning-rate", "0.5", *more]), steps=20)
    rates = np.array([float(np.asarray(rate(step))) for step in range(20)])
    np.testing.assert_allclose(rates, [expected(step) for step in range(20)], rtol=1e-5)


@pytest.mark.parametrize("more", [(), ("--clip-norm", "0.5"), ("--weight-decay", "0.1"), ("--schedule", "linear")])
def test_the_optimizer_is_kerass_adam_with_what_is_asked_for(more: tuple[str, ...]) -> None:
    rng = np.random.default_rng(0)
    weights = {"kernel": rng.normal(size=(3, 4)), "bias": rng.normal(size=4)}
    params: Any = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), weights)
    chosen = optimizer(imdb.parse(["--learning-rate", "0.01", *more]), steps=8)
    state = chosen.init(params)
    moments = {name: (np.zeros_like(leaf), np.zeros_like(leaf)) for name, leaf in weights.items()}
    for step in range(1, 6):
        gradients = {name: rng.normal(size=leaf.shape) * 1e-6 for name, leaf in weights.items()}
        if more[:1] == ("--clip-norm",):
            gradients = {name: leaf * 1e6 for name, leaf in gradients.items()}
        given: Any = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), gradients)
        updates, state = chosen.update(given, state, params)
        params = optax.apply_updates(params, updates)
        if more[:1] == ("--clip-norm",):
            norm = np.sqrt(sum((leaf**2).sum() for leaf in gradients.values()))
            gradients = {name: leaf * min(1, 0.5 / norm) for name, leaf in gradients.items()}
        rate = 0.01 * (1 - (step - 1) / 8) if "linear" in more else 0.01
        for name, gradient in gradients.items():
            first, second = moments[name]
            first = moments[name] = (0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2)
            # As in Keras: one factor for both corrections, and epsilon beside the root of the moment as it is.
            factor = np.sqrt(1 - 0.999**step) / (1 - 0.9**step)
            change = factor * first[0] / (np.sqrt(first[1]) + 1e-7)
            decay = 0.1 * weights[name] if "--weight-decay" in more and name == "kernel" else 0
            weights[name] = weights[name] - rate * (change + decay)
    for name, expected in weights.items():
        np.testing.assert_allclose(params[name], expected, rtol=2e-5)


def shapes(*more: str, cell: str = "gru") -> list[tuple[int, ...]]:
    return [leaf.shape for leaf in jax.tree.leaves(nnx.state(model(*more, cell=cell), nnx.Param))]


def test_sizes_and_cell_are_those_of_the_weights() -> None:
    assert {(50, 5), (5, 21), (7, 21), (7, 1)} <= {*shapes()}
    assert (50, 6) in shapes("--embedding", "6") and (60, 5) in shapes("--num-words", "60")
    assert {(5, 24), (8, 24), (8, 1)} <= {*shapes("--units", "8")}
    assert (7, 28) in shapes(cell="lstm") and (7, 7) in shapes(cell="simple_rnn")


@pytest.mark.parametrize(
    ("more", "in_training"), [(("--dropout=0.5",), True), (("--recurrent-dropout=0.5",), True), ((), False)]
)
def test_dropout_is_at_random_in_training_only(more: tuple[str, ...], in_training: bool) -> None:
    made = model("--dropout=0", "--recurrent-dropout=0", *more)
    first, second = np.asarray(made(TOKENS)), np.asarray(made(TOKENS))
    assert (np.abs(first - second).max() > 1e-4) == in_training
    made.eval()
    np.testing.assert_array_equal(made(TOKENS), made(TOKENS))
    rates = made.recurrent.dropout, made.recurrent.recurrent_dropout
    assert rates == (0.5 if "--dropout=0.5" in more else 0, 0.5 if "--recurrent-dropout=0.5" in more else 0)


def loaded(*more: str) -> reviews.Reviews:
    return imdb.load(imdb.parse(["--data", "generated", "--limit", "70", *more]))


def test_options_of_the_data_change_the_data() -> None:
    data = loaded()
    assert (data.train.tokens.shape, data.test.tokens.shape) == ((70, 80), (70, 80)) and not data.is_imdb
    short = loaded("--maxlen", "9")
    np.testing.assert_array_equal(short.train.tokens, data.train.tokens[:, -9:])
    few = loaded("--num-words", "20")
    assert few.train.tokens.max() == 19 < data.train.tokens.max()
    other = loaded("--seed", "1")
    assert (other.train.tokens != data.train.tokens).any()


def test_data_dir_is_where_the_reviews_are_looked_for(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(reviews.DataUnavailable, match=re.escape(str(tmp_path / "file"))):
        imdb.load(imdb.parse(["--data", "imdb", "--data-dir", str(tmp_path / "file")]))


DATA = reviews.load("generated", limit=328, maxlen=12, num_words=50)
SILENT = Console(quiet=True)


def trained(*more: str, **rest: Any) -> tuple[report.Run, list[np.ndarray]]:
    chosen = imdb.parse([*SMALL, "--batch-size=8", "--epochs=1", *more])
    run, params = trainer.train("simple_rnn", chosen.seed, DATA, chosen, SILENT, **rest)
    return run, [np.asarray(leaf) for leaf in jax.tree.leaves(params)]


def test_options_of_the_training_change_the_training() -> None:
    run, weights = trained()
    assert (len(run.test), run.reviews, len(run.curve)) == (1, 328, 3)
    longer, _ = trained("--epochs=2")
    assert (len(longer.test), longer.reviews) == (2, 656) and longer.test[0] == run.test[0]
    assert len(trained("--batch-size=41")[0].curve) == 1
    other, others = trained("--seed=1")
    assert other.seed == 1 and other.curve != run.curve
    assert any((one != two).any() for one, two in zip(weights, others, strict=True))
    _, start = trained("--learning-rate=1e-30")
    fresh = jax.tree.leaves(nnx.state(model(cell="simple_rnn"), nnx.Param))
    assert max(np.abs(one - two).max() for one, two in zip(start, fresh, strict=True)) < 1e-20


@pytest.mark.parametrize(("every", "saves"), [(20, 3), (40, 2), (60, 1)])
def test_every_says_how_often_is_saved(every: int, saves: int, tmp_path: Path) -> None:
    chosen = imdb.parse(["--checkpoint", str(tmp_path), "--every", str(every)])
    store = imdb.open_store("simple_rnn", [0], DATA, chosen)
    done: list[int] = []
    save = Store.save

    def note(self: Store, arrays: Any, about: Any) -> bool:
        done.append(len(about["sums"]))
        return save(self, arrays, about)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Store, "save", note)
        trained(store=store)
    store.close()
    assert done == {20: [20, 40, 0], 40: [40, 0], 60: [0]}[every] and len(done) == saves


TESTED = {
    "test_imdb": "cell",
    "test_options": "units embedding num-words layers bidirectional dropout recurrent-dropout dtype epochs "
    "batch-size learning-rate schedule warmup clip-norm weight-decay seed data data-dir maxlen limit every",
    "test_checkpoints": "validation patience checkpoint output",
    "test_seeds": "seeds at-once",
    "test_logs": "log tensorboard",
    "test_exports": "export",
}
"""The file with the test of each option."""


def test_every_option_is_tested() -> None:
    groups = {group.title: group._group_actions for group in options.make("")._action_groups}
    mine = ("model", "training", "data", "output")
    flags = {flag for name in mine for action in groups[name] for flag in action.option_strings}
    listed = {f"--{name}": file for file, names in TESTED.items() for name in names.split()}
    assert flags == {*listed}
    for flag, file in listed.items():
        assert re.search(f'"{flag}["=]', Path(__file__).with_name(f"{file}.py").read_text()), flag


def test_help_is_one_screen_a_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    text = options.make("").format_help()
    groups = re.split(r"\n\n(?=[a-z ]+:\n)", text[text.index("options:") :])
    assert len(groups) == len([*re.finditer(r"^[a-z ]+:$", text, re.MULTILINE)]) >= 5
    for group in groups:
        lines = group.splitlines()
        assert len(lines) <= 24 and max(map(len, lines)) <= 100, lines[0]
