"""Time of one training step of the IMDB experiment: ours against Keras on each of its backends.

The setting is the experiment's default: 80 tokens of 10,000 words, Embedding 128, 128 units with dropout and recurrent
dropout 0.2, Dense 1, Adam, batches of 32. A step is all that a user waits for: batching, forward and backward pass,
update, metrics. Every contestant lives in a process of its own, has the same weights at first, and must give the same
probabilities before anything is timed. The processes then take turns of ``--steps`` steps.

    python -m benchmarks.imdb_step --cell all
"""

import argparse
import functools
import json
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.tables import markdown
from benchmarks.timing import interleave, machine, stopwatch
from benchmarks.workers import Worker, WorkerError, exit_on_termination, serve

CELLS = ("lstm", "gru", "simple_rnn")
CONTESTANTS = ("flax_rnn", "keras-jax", "keras-tensorflow", "keras-torch")
NUM_WORDS, MAXLEN, UNITS, BATCH = 10_000, 80, 128, 32
RESULTS = Path(__file__).parent / "results"

Workload = tuple[Callable[[np.ndarray], np.ndarray], Callable[[np.ndarray, np.ndarray], Any]]
"""``tokens -> probabilities`` without dropout, and ``(tokens, labels) ->`` one pass of training."""


def initial_weights(cell: str) -> list[np.ndarray]:
    """Weights for all, with biases that are not zero: embedding, kernel, recurrent kernel, bias, and the dense two."""
    rng = np.random.default_rng(0)
    gates = {"lstm": 4, "gru": 3, "simple_rnn": 1}[cell]
    bias = (2, gates * UNITS) if cell == "gru" else (gates * UNITS,)
    shapes = [(NUM_WORDS, UNITS), (UNITS, gates * UNITS), (UNITS, gates * UNITS), bias, (UNITS, 1), (1,)]
    return [rng.normal(0, 0.06, shape).astype(np.float32) for shape in shapes]


def ours(cell: str) -> Workload:
    """The experiment as it is, which keeps its memory and asks the compiler for wide vectors."""
    from flax_rnn import runtime

    runtime.keep_memory()
    import jax.numpy as jnp
    import optax
    from flax import nnx

    from experiments.training import Classifier, batches, compile_steps, train_epoch

    model = Classifier(
        cell, num_words=NUM_WORDS, embedding=UNITS, units=UNITS, dropout=0.2, recurrent_dropout=0.2, rngs=nnx.Rngs(0)
    )
    recurrent: Any = model.recurrent.cell
    dense: Any = model.dense
    parameters = [
        model.embedding.embedding, recurrent.kernel, recurrent.recurrent_kernel, recurrent.bias,
        dense.kernel, dense.bias,
    ]  # fmt: skip
    for parameter, value in zip(parameters, initial_weights(cell), strict=True):
        parameter[...] = jnp.asarray(value)
    state, steps = compile_steps(model, optax.adam(1e-3, eps=1e-7))

    def predict(tokens: np.ndarray) -> np.ndarray:
        model.eval()
        probabilities = nnx.sigmoid(model(jnp.asarray(tokens)))
        return np.asarray(probabilities)

    def train(tokens: np.ndarray, labels: np.ndarray) -> None:
        nonlocal state
        state, _ = train_epoch(steps, state, batches(tokens, labels, BATCH, np.arange(len(labels))))

    return predict, train


def keras(backend: str, cell: str) -> Workload:
    """The same model in Keras; ``fit`` is its own loop, at its best when compiled as Keras chooses."""
    os.environ["KERAS_BACKEND"] = backend
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    import keras

    layer = {"lstm": keras.layers.LSTM, "gru": keras.layers.GRU, "simple_rnn": keras.layers.SimpleRNN}[cell]
    model = keras.Sequential(
        [
            keras.Input((MAXLEN,), dtype="int32"),
            keras.layers.Embedding(NUM_WORDS, UNITS),
            layer(UNITS, dropout=0.2, recurrent_dropout=0.2),
            keras.layers.Dense(1, activation="sigmoid"),
        ]
    )
    model.set_weights(initial_weights(cell))
    model.compile("adam", "binary_crossentropy", metrics=["accuracy"])
    silent: Any = 0

    def predict(tokens: np.ndarray) -> np.ndarray:
        return model.predict(tokens, verbose=silent)[:, 0]

    def train(tokens: np.ndarray, labels: np.ndarray) -> None:
        model.fit(tokens, labels, batch_size=BATCH, epochs=1, verbose=silent, shuffle=False)

    return predict, train


def work(contestant: str, cell: str, steps: int) -> None:
    """A worker: ``build`` writes probabilities to a file and compiles, each ``turn`` trains ``steps`` steps."""
    rng = np.random.default_rng(1)
    tokens = rng.integers(1, NUM_WORDS, (steps * BATCH, MAXLEN)).astype(np.int32)
    labels = rng.integers(0, 2, steps * BATCH).astype(np.float32)
    built: list[Callable[[], Any]] = []

    def handle(request: dict[str, Any]) -> dict[str, float]:
        if request["do"] == "turn":
            return {"seconds": stopwatch(built[0]) / steps}
        backend = contestant.removeprefix("keras-")
        predict, train = ours(cell) if contestant == "flax_rnn" else keras(backend, cell)
        np.save(request["probabilities"], predict(tokens[:BATCH]))
        built.append(functools.partial(train, tokens, labels))
        first = stopwatch(built[0])
        built[0]()
        return {"first": first}

    serve(handle)


def compare(cell: str, contestants: list[str], steps: int, rounds: int) -> dict[str, Any]:
    """Times the contestants on one cell; those that cannot run are listed with the reason."""
    workers: dict[str, Worker] = {}
    first: dict[str, float] = {}
    absent: dict[str, str] = {}
    probabilities: dict[str, np.ndarray] = {}
    try:
        with tempfile.TemporaryDirectory() as folder:
            for name in contestants:
                path = Path(folder) / f"{name}.npy"
                arguments = ["--worker", name, "--cell", cell, "--steps", str(steps)]
                workers[name] = Worker("benchmarks.imdb_step", *arguments)
                try:
                    first[name] = workers[name].ask(do="build", probabilities=str(path))["first"]
                    probabilities[name] = np.load(path)
                except WorkerError as error:
                    absent[name] = str(error)
        for name, found in probabilities.items():
            np.testing.assert_allclose(found, probabilities[contestants[0]], atol=1e-4, err_msg=f"{name}: {cell}")
        turns = {name: lambda name=name: workers[name].ask(do="turn")["seconds"] for name in first}
        timings = interleave(turns, rounds)
    finally:
        for worker in workers.values():
            worker.close()
    base = timings[contestants[0]].median
    rows = {
        name: timing.as_json() | {"ratio": timing.median / base, "first_turn_s": first[name]}
        for name, timing in timings.items()
    }
    return {"cell": cell, "steps": steps, "contestants": rows, "absent": absent}


def table(results: list[dict[str, Any]]) -> str:
    """The results as Markdown."""
    rows = []
    for result in results:
        for name, row in result["contestants"].items():
            figures = [f"{row[figure]:.1f}" for figure in ("median_ms", "min_ms", "quartile_1_ms", "quartile_3_ms")]
            rows.append([result["cell"], name, *figures[:2], " to ".join(figures[2:]), f"{row['ratio']:.2f}"])
        rows += [[result["cell"], name, f"did not run: {why}", "", "", ""] for name, why in result["absent"].items()]
    return markdown(["cell", "contestant", "ms a step (median)", "min", "middle half", "times flax_rnn"], rows, 2)


def main() -> None:
    """Runs the comparison and writes ``results/imdb_step.json`` and ``.md``."""
    description, _, rest = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        description=description, epilog=rest, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cell", choices=(*CELLS, "all"), default="lstm", help="[%(default)s]")
    parser.add_argument(
        "--against", nargs="*", choices=CONTESTANTS[1:], default=list(CONTESTANTS[1:3]),
        help="contestants; keras-torch takes seconds a step on a CPU [keras-jax keras-tensorflow]",
    )  # fmt: skip
    parser.add_argument("--steps", type=int, default=20, help="steps in a turn [%(default)s]")
    parser.add_argument("--rounds", type=int, default=12, help="turns of each contestant [%(default)s]")
    parser.add_argument("--quick", action="store_true", help="few and short turns, nothing written")
    parser.add_argument("--worker", choices=CONTESTANTS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work(options.worker, options.cell, options.steps)
        return
    exit_on_termination()
    steps, rounds = (5, 2) if options.quick else (options.steps, options.rounds)
    cells = CELLS if options.cell == "all" else (options.cell,)
    results = []
    for cell in cells:
        results.append(compare(cell, ["flax_rnn", *options.against], steps, rounds))
        print(table(results[-1:]), flush=True)
    if not options.quick:
        RESULTS.mkdir(exist_ok=True)
        everything = {"command": " ".join(["python -m benchmarks.imdb_step", *sys.argv[1:]]), "machine": machine()}
        (RESULTS / "imdb_step.json").write_text(json.dumps(everything | {"results": results}, indent=1) + "\n")
        (RESULTS / "imdb_step.md").write_text(table(results))


if __name__ == "__main__":
    main()
