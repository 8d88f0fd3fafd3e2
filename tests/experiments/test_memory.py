"""The experiment on memory: what it draws, what it measures, what it writes, and what the page shows of it."""

import json
import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest

import flax_rnn
from experiments import memory, memory_report
from experiments.memory_probes import around_marks, gates, slopes
from experiments.memory_tasks import Adding, Copying
from experiments.memory_training import Cell, Plan, Weights, count, train

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "why-gates.md"
COMMITTED = ROOT / "docs" / "figures" / "why-gates"
CELLS: list[Cell] = [flax_rnn.SimpleRNNCell(4), flax_rnn.GRUCell(4), flax_rnn.LSTMCell(4)]
FEATURES = 3


def weights_of(cell: Cell, rng: np.random.Generator) -> Weights:
    layer = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), oracle.random_weights(cell, FEATURES, rng))
    return Weights(layer, jnp.asarray(rng.normal(size=(4, 1)), jnp.float32), jnp.zeros(1))


@pytest.mark.parametrize("length", [2, 7, 12])
def test_sums_are_those_of_two_marked_numbers_one_in_each_half(length: int) -> None:
    inputs, targets = map(np.asarray, Adding(length).draw(jax.random.key(0), 300))
    assert inputs.shape == (300, length, 2) and targets.shape == (300, 1, 1)
    places = set[tuple[int, int]]()
    for (numbers, marks), target in zip(inputs.swapaxes(1, 2), targets[:, 0, 0], strict=True):
        first, second = (t for t in range(length) if marks[t] == 1)
        assert np.sum(marks) == 1 + 1 and first < length // 2 <= second
        assert target == pytest.approx(numbers[first] + numbers[second], abs=1e-6)
        places.add((first, second))
    assert len(places) == (length // 2) * (length - length // 2)
    assert (
        inputs[..., 0].min() >= 0 and inputs[..., 0].max() < 1 and inputs[..., 0].std() == pytest.approx(0.29, abs=0.02)
    )


def test_symbols_are_shown_then_blanks_then_cues() -> None:
    task = Copying(5, symbols=3, alphabet=6)
    inputs, targets = map(np.asarray, task.draw(jax.random.key(0), 400))
    assert inputs.shape == (400, 3 + 5 + 3, 8) and targets.shape == (400, 3)
    assert np.all(inputs.sum(axis=-1) == 1)
    steps = inputs.argmax(axis=-1)
    for row, wanted in zip(steps, targets, strict=True):
        assert row.tolist() == [*wanted.tolist(), 6, 6, 6, 6, 6, 7, 7, 7]
    assert np.unique(targets).tolist() == [*range(6)]
    assert len(np.unique(inputs, axis=0)) > 100


def test_chance_is_the_error_of_the_best_answer_without_looking() -> None:
    adding, copying = Adding(10), Copying(2)
    sums = adding.draw(jax.random.key(0), 20_000).targets
    found = {answer: float(adding.error(jnp.full_like(sums, answer), sums)) for answer in (0.9, 1.0, 1.1)}
    assert min(found, key=found.__getitem__) == 1.0 and found[1.0] == pytest.approx(adding.chance, rel=0.03)
    shown = copying.draw(jax.random.key(0), 5_000).targets
    one = jax.nn.one_hot(jnp.full_like(shown, 3), copying.outputs)
    assert float(copying.error(one, shown)) == pytest.approx(copying.chance, rel=0.02)
    assert float(copying.error(jax.nn.one_hot(shown, copying.outputs), shown)) == 0


def test_slopes_of_a_simple_rnn_are_products_of_jacobians() -> None:
    rng = np.random.default_rng(0)
    cell, inputs = flax_rnn.SimpleRNNCell(4), rng.normal(size=(2, 6, FEATURES))
    weights = weights_of(cell, rng)
    names = ("kernel", "recurrent_kernel", "bias")
    kernel, recurrent, bias = (np.asarray(weights.layer[name], np.float64) for name in names)
    found = slopes(cell, weights, jnp.asarray(inputs, jnp.float32))
    assert found.shape == (6, 2)
    for row, x in enumerate(inputs):
        states, h = [], np.zeros(4)
        for step in x:
            h = np.tanh(step @ kernel + h @ recurrent + bias)
            states.append(h)
        slope, expected = np.asarray(weights.kernel, np.float64)[:, 0], []
        for h in reversed(states):
            slope = recurrent @ ((1 - h**2) * slope)
            expected.append(np.linalg.norm(slope))
        np.testing.assert_allclose(found[:, row], expected, rtol=1e-4)


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: type(cell).__name__)
def test_slopes_are_differences_of_answers_for_states_that_differ(cell: Cell) -> None:
    rng = np.random.default_rng(1)
    inputs = rng.normal(size=(1, 5, FEATURES))
    weights = weights_of(cell, rng)
    layer, dense = oracle.of(cell, weights.layer), np.asarray(weights.kernel, np.float64)

    def answer(steps: np.ndarray, state: list[np.ndarray]) -> float:
        return float((oracle.run(layer, steps, state)[0] @ dense)[0, 0])

    expected, width = [], 1e-5
    for back in range(1, 6):
        state = layer.zero_state()
        for x in inputs[0, :-back]:
            state, _ = layer.step(state, x, 0)
        differences: list[float] = []
        for part in range(len(state)):
            for unit in range(4):
                moved = [[s[None] + sign * width * (np.arange(4) == unit) * (p == part) for p, s in enumerate(state)]
                         for sign in (1, -1)]  # fmt: skip
                up, down = (answer(inputs[:, -back:], one) for one in moved)
                differences.append((up - down) / (2 * width))
        expected.append(np.linalg.norm(differences))
    np.testing.assert_allclose(slopes(cell, weights, jnp.asarray(inputs, jnp.float32))[:, 0], expected, rtol=1e-3)


@pytest.mark.parametrize("cell", [flax_rnn.GRUCell(4), flax_rnn.GRUCell(4, reset_after=False), flax_rnn.LSTMCell(4)])
def test_gates_make_of_old_and_new_what_the_cell_makes(cell: Any) -> None:
    rng = np.random.default_rng(2)
    weights, inputs = weights_of(cell, rng), rng.normal(size=(2, 6, FEATURES))
    layer = oracle.of(cell, weights.layer)
    keep, write = (np.asarray(gate) for gate in gates(cell, weights, jnp.asarray(inputs, jnp.float32)))
    lstm = isinstance(cell, flax_rnn.LSTMCell)
    params = {name: np.asarray(value, np.float64) for name, value in weights.layer.items()}
    bias = params["bias"].reshape(-1, params["bias"].shape[-1]).sum(axis=0)
    for row in range(2):
        state = layer.zero_state()
        for t, x in enumerate(inputs[row]):
            sums = x @ params["kernel"] + state[0] @ params["recurrent_kernel"] + bias
            blocks = np.split(1 / (1 + np.exp(-sums)), 4 if lstm else 3)
            np.testing.assert_allclose(keep[row, t], blocks[1 if lstm else 0], atol=1e-5)
            np.testing.assert_allclose(write[row, t], blocks[0] if lstm else 1 - blocks[0], atol=1e-5)
            new, _ = layer.step(state, x, row)
            # What is left when the kept part is taken away is less than what may be written.
            rest = new[-1] - keep[row, t] * state[-1]
            assert np.all(np.abs(rest) <= write[row, t] + 1e-5)
            state = new


def test_an_open_lstm_differs_in_the_bias_of_its_forget_gates_only() -> None:
    key = jax.random.key(0)
    ours, usual = memory.open_lstm(4).init_params(key, 3), flax_rnn.LSTMCell(4).init_params(key, 3)
    for name in ("kernel", "recurrent_kernel"):
        np.testing.assert_array_equal(ours[name], usual[name])
    np.testing.assert_array_equal(ours["bias"], usual["bias"] * memory.OPEN_BIAS)
    np.testing.assert_array_equal(ours["bias"].reshape(4, 4), [[0] * 4, [4] * 4, [0] * 4, [0] * 4])


def test_means_around_marks_leave_out_what_is_beyond_the_ends() -> None:
    values = np.arange(10.0).reshape(2, 5, 1)
    marks = np.zeros((2, 5))
    marks[0, 0] = marks[1, 3] = 1
    assert around_marks(values, marks, 2)[:, 0].tolist() == [6, 7, 4, 5, 2]


def test_training_learns_and_depends_on_the_key_only() -> None:
    cell, task, plan = flax_rnn.GRUCell(8), Adding(4), Plan(steps=600, learning_rate=1e-2)
    one, same, other = (train(cell, task, plan, jax.random.key(seed)) for seed in (0, 0, 1))
    assert one.curve.shape == (plan.points,) and one.error < 0.1 * task.chance
    np.testing.assert_array_equal(one.curve, same.curve)
    assert not np.array_equal(one.curve, other.curve)
    assert count(cell, task) == (2 * 24 + 8 * 24 + 2 * 24) + 8 + 1


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    folder = tmp_path_factory.mktemp("memory")
    return memory.main(["--quick", "--output", str(folder)]), folder


@pytest.mark.full
def test_the_command_writes_results_tables_and_pictures(quick: tuple[dict[str, Any], Path]) -> None:
    found, folder = quick
    written = json.loads((folder / "results.json").read_text())
    assert written == found
    assert len(written["runs"]) == (3 + 4) * 2
    ran = {(run["cell"], run["task"]) for run in written["runs"]}
    assert ran == {(cell, task) for task, cells in memory.CONTESTANTS.items() for cell in cells}
    assert all(np.isfinite([run["error"], *run["curve"]]).all() for run in written["runs"])
    assert (folder / "tables.md").read_text() == memory_report.tables(written)
    for name in memory_report.PICTURES:
        text = (folder / f"{name}.svg").read_text()
        assert "</svg>" in text and "fill: var(--" in text


def test_what_is_learned_ends_at_the_first_length_that_a_seed_fails_at() -> None:
    errors = {10: [0.001, 0.002], 20: [0.001, 0.016], 40: [0.001, 0.02], 80: [0.001, 0.001]}
    runs = [
        {"task": "adding", "cell": "GRU", "length": length, "error": error}
        for length, both in errors.items() for error in both
    ]  # fmt: skip
    results = {"runs": runs, "chance": {"adding": 1 / 6}}
    assert memory_report.reach(results, "adding", "GRU") == 20
    assert memory_report.reach(results | {"chance": {"adding": 1e-3}}, "adding", "GRU") is None


def test_pictures_have_no_colour_that_stays_on_a_dark_page() -> None:
    for name in memory_report.PICTURES:
        text = (COMMITTED / f"{name}.svg").read_text()
        assert "prefers-color-scheme: dark" in text
        assert re.findall(r"(?:fill|stroke): #\w+", text) == []


def test_the_page_shows_what_the_command_found() -> None:
    results = json.loads((COMMITTED / "results.json").read_text())
    tables, page = memory_report.tables(results), PAGE.read_text()
    assert (COMMITTED / "tables.md").read_text() == tables
    of_page = re.findall(r"^\|.*\|$", page, re.MULTILINE)
    assert of_page == [line for line in tables.splitlines() if line.startswith("|")]
    assert results["command"] in page
    assert {f"figures/why-gates/{name}.svg" for name in memory_report.PICTURES} == {
        *re.findall(r"\((\S+\.svg)\)", page)
    }
