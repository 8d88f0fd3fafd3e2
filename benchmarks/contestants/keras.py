"""Keras' layers on each of its backends, compiled as its own training loop compiles them."""

import importlib
import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.cases import Case, Layers
from benchmarks.contestants import with_jax
from benchmarks.contestants.interface import Contestant, Results, Run, for_each_cell, of_weights
from flax_rnn.convert import to_keras


def layers(case: Case, keras: Any) -> list[Any]:
    """The recurrent layers of ``case``."""
    kinds = {"lstm": keras.layers.LSTM, "gru": keras.layers.GRU, "simple_rnn": keras.layers.SimpleRNN}
    dtype = case.array_dtype
    made = [
        kinds[case.cell](
            case.units, activation=case.activation, use_bias=case.bias, recurrent_dropout=case.dropout,
            return_sequences=True, dtype=dtype, recurrent_initializer="zeros",  # the usual one lacks bfloat16
        )
        for _ in range(case.depth)
    ]  # fmt: skip
    return [keras.layers.Bidirectional(layer, dtype=dtype) for layer in made] if case.directions == 2 else made


def model(case: Case, keras: Any) -> Any:
    """A model of the layers with our weights; with a mask, it is the second input."""
    inputs = [keras.Input(batch_shape=case.size[:3], dtype=case.array_dtype)]
    if case.variant == "mask":
        inputs.append(keras.Input(batch_shape=case.size[:2], dtype="bool"))
    outputs = inputs[0]
    for layer in layers(case, keras):
        outputs = layer(outputs, mask=inputs[1] if len(inputs) > 1 else None)
    made = keras.Model(inputs, outputs)
    made.set_weights(to_keras(case.weights()))
    return made


def in_layers(case: Case, weights: list[np.ndarray]) -> Layers:
    """Arrays in the order of ``get_weights()``, which is that of ``case.weights()``, in our layout."""
    arrays = iter(weights)
    return for_each_cell(lambda cell: {name: next(arrays) for name in cell}, case.weights())


def results(case: Case, outputs: np.ndarray, gradients: list[np.ndarray]) -> Results:
    """Outputs and gradients, those of the inputs first, by name."""
    if not gradients:
        return {"outputs": outputs}
    return {"outputs": outputs, "inputs": gradients[0]} | of_weights(in_layers(case, gradients[1:]))


def load(backend: str) -> Any:
    """Keras on ``backend``."""
    os.environ["KERAS_BACKEND"] = backend
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    importlib.import_module(backend)  # whose absence Keras would report in other words
    return importlib.import_module("keras")


class OnJax(with_jax.OnJax):
    """Keras on JAX: ``stateless_call`` under ``jax.jit``."""

    def __init__(self) -> None:
        self.keras = load("jax")
        super().__init__()

    def build(self, case: Case) -> Run:
        """See ``Contestant``."""
        built = model(case, self.keras)
        mask = case.mask()
        extras = {
            "others": [variable.value for variable in built.non_trainable_variables],
            "mask": [] if mask is None else [jnp.asarray(mask)],
        }

        def apply(params: Any, x: jax.Array, extras: Any) -> jax.Array:
            inputs = [x, *extras["mask"]]
            return built.stateless_call(params, extras["others"], inputs, training=case.dropout > 0)[0]

        params = [variable.value for variable in built.trainable_variables]
        return self.run(case, apply, params, extras, lambda gradients: in_layers(case, gradients))


class OnTensorFlow(Contestant):
    """Keras on TensorFlow: under ``tf.function``, by XLA where Keras' layers say that they support it."""

    def __init__(self) -> None:
        self.keras = load("tensorflow")
        self.tf: Any = importlib.import_module("tensorflow")
        gpus = self.tf.config.list_physical_devices("GPU")
        self.platform = "gpu" if gpus else "cpu"
        self.device = self.tf.config.experimental.get_device_details(gpus[0])["device_name"] if gpus else "cpu"

    def build(self, case: Case) -> Run:
        """See ``Contestant``."""
        tf, built, mask = self.tf, model(case, self.keras), case.mask()
        x, cotangent = (tf.cast(tf.constant(array), case.array_dtype) for array in (case.inputs(), case.cotangent()))
        inputs = [x] if mask is None else [x, tf.constant(mask)]
        variables = [variable.value for variable in built.trainable_variables]

        def forward(inputs: Any, cotangent: Any) -> Any:
            del cotangent
            return built(inputs, training=case.dropout > 0), []

        def training(inputs: Any, cotangent: Any) -> Any:
            with tf.GradientTape() as tape:
                tape.watch(inputs[0])
                outputs = built(inputs, training=case.dropout > 0)
            return outputs, tape.gradient(outputs, [inputs[0], *variables], cotangent)

        takes_tf32 = case.dtype == "tf32"
        supported = all(layer.supports_jit for layer in built.layers)
        function = tf.function(training if case.phase == "training" else forward, jit_compile=supported)

        def start() -> Any:
            # For all that runs from here on, whichever case was the last before.
            tf.config.experimental.enable_tensor_float_32_execution(takes_tf32)
            return function(inputs, cotangent)

        def wait(result: Any) -> None:
            del result
            if self.platform == "gpu":
                tf.test.experimental.sync_devices()

        def read(result: Any) -> Results:
            outputs, gradients = tf.nest.map_structure(lambda tensor: tf.cast(tensor, "float32").numpy(), result)
            return results(case, outputs, gradients)

        return Run(start, read, wait)


class OnTorch(Contestant):
    """Keras on torch: as it is, since Keras compiles nothing there by itself."""

    def __init__(self) -> None:
        self.keras = load("torch")
        from benchmarks.contestants import torch

        self.torch: Any = torch
        self.platform, self.device = torch.where()

    def build(self, case: Case) -> Run:
        """See ``Contestant``."""
        built, mask = model(case, self.keras), case.mask()
        masks = [] if mask is None else [self.torch.tensor(mask, "bool")]
        parameters = [variable.value for variable in built.trainable_variables]

        def module(x: Any) -> Any:
            return built([x, *masks], training=case.dropout > 0)

        def read(result: Any) -> Results:
            outputs, gradients = result
            return results(case, self.torch.array(outputs), [*map(self.torch.array, gradients or ())])

        return Run(self.torch.start(case, module, parameters), read, self.torch.wait)
