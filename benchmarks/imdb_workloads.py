"""The training step of the IMDB experiment in several frameworks: the same model from the same weights.

Products of float32 may be TF32 on a GPU for all, which jax and TensorFlow do unless told otherwise.
"""

import os
from collections.abc import Callable
from typing import Any

import numpy as np

NUM_WORDS, MAXLEN, UNITS, BATCH, RATE = 10_000, 80, 128, 32, 0.2

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

    from experiments.model import Classifier
    from experiments.training import batches, compile_steps, train_steps

    model = Classifier(
        cell, num_words=NUM_WORDS, embedding=UNITS, units=UNITS, dropout=RATE, recurrent_dropout=RATE, rngs=nnx.Rngs(0)
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
        for after, _ in train_steps(steps, state, batches(tokens, labels, BATCH, np.arange(len(labels)))):
            state = after

    return predict, train


def keras(backend: str, cell: str) -> Workload:
    """The same model in Keras; ``fit`` is its own loop, at its best when compiled as Keras chooses."""
    os.environ["KERAS_BACKEND"] = backend
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    if backend == "torch":
        _allow_tf32()
    model = keras_model(cell)
    model.set_weights(initial_weights(cell))
    silent: Any = 0

    def predict(tokens: np.ndarray) -> np.ndarray:
        return model.predict(tokens, verbose=silent)[:, 0]

    def train(tokens: np.ndarray, labels: np.ndarray) -> None:
        model.fit(tokens, labels, batch_size=BATCH, epochs=1, verbose=silent, shuffle=False)

    return predict, train


def keras_model(
    cell: str,
    num_words: int = NUM_WORDS,
    maxlen: int = MAXLEN,
    embedding: int = UNITS,
    units: int = UNITS,
    dropout: float = RATE,
    recurrent_dropout: float = RATE,
    learning_rate: float = 1e-3,
    clip_norm: float | None = None,
) -> Any:
    """Keras' model, compiled, with weights as Keras draws them; its backend is that of ``KERAS_BACKEND``."""
    import keras

    layer = {"lstm": keras.layers.LSTM, "gru": keras.layers.GRU, "simple_rnn": keras.layers.SimpleRNN}[cell]
    model = keras.Sequential(
        [
            keras.Input((maxlen,), dtype="int32"),
            keras.layers.Embedding(num_words, embedding),
            layer(units, dropout=dropout, recurrent_dropout=recurrent_dropout),
            keras.layers.Dense(1, activation="sigmoid"),
        ]
    )
    adam = keras.optimizers.Adam(learning_rate, global_clipnorm=clip_norm)
    model.compile(adam, "binary_crossentropy", metrics=["accuracy"])
    return model


def torch(cell: str) -> Workload:
    """The same in torch but for recurrent dropout, which its layers lack: it computes less than the others."""
    import torch
    from torch import nn
    from torch.nn import functional

    from flax_rnn.convert import to_torch

    _allow_tf32()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    embedding, *recurrent, kernel, bias = initial_weights(cell)
    words = nn.Embedding.from_pretrained(torch.from_numpy(embedding), freeze=False)
    layer: Any = {"lstm": nn.LSTM, "gru": nn.GRU, "simple_rnn": nn.RNN}[cell](UNITS, UNITS, batch_first=True)
    named = to_torch([dict(zip(("kernel", "recurrent_kernel", "bias"), recurrent, strict=True))])
    layer.load_state_dict({name: torch.tensor(array) for name, array in named.items()})
    dense = nn.Linear(UNITS, 1)
    dense.load_state_dict({"weight": torch.from_numpy(kernel.T), "bias": torch.from_numpy(bias)})
    model = nn.ModuleList([words, layer, dense]).to(device)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3, eps=1e-7, fused=device == "cuda")

    def logits(tokens: np.ndarray) -> torch.Tensor:
        x = words(torch.from_numpy(tokens).to(device))
        x = x * functional.dropout(torch.ones_like(x[:, :1]), RATE, model.training)  # the same at all steps
        return dense(layer(x)[0][:, -1])[:, 0]

    def predict(tokens: np.ndarray) -> np.ndarray:
        model.eval()
        with torch.no_grad():
            return torch.sigmoid(logits(tokens)).cpu().numpy()

    def train(tokens: np.ndarray, labels: np.ndarray) -> None:
        model.train()
        sums = torch.zeros(2, device=device)
        for start in range(0, len(labels), BATCH):
            truth = torch.from_numpy(labels[start : start + BATCH]).to(device)
            found = logits(tokens[start : start + BATCH])
            loss = functional.binary_cross_entropy_with_logits(found, truth)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            sums += torch.stack([loss.detach() * len(truth), ((found > 0) == (truth > 0.5)).sum()])
        sums.tolist()  # waits, as the others do for their metrics

    return predict, train


WITHOUT = "torch-no-recurrent-dropout"
"""Torch's name, that nobody takes it for the same."""
WORKLOADS: dict[str, Callable[[str], Workload]] = {
    "flax_rnn": ours,
    **{f"keras-{backend}": lambda cell, backend=backend: keras(backend, cell) for backend in ("jax", "tensorflow")},
    "keras-torch": lambda cell: keras("torch", cell),
    WITHOUT: torch,
}
"""By contestant: what makes a workload of the name of a cell."""


def platform(contestant: str) -> str:
    """What the framework of a contestant runs on, ``"cpu"`` or a GPU's name; imports it."""
    if contestant in ("keras-torch", WITHOUT):
        import torch

        return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    if contestant == "keras-tensorflow":
        import tensorflow

        return "gpu" if tensorflow.config.list_physical_devices("GPU") else "cpu"
    import jax

    return jax.devices()[0].device_kind


def _allow_tf32() -> None:
    import torch

    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
