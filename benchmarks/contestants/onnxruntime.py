"""ONNX Runtime, the usual way to serve a model on CPUs: inference in float32 with the operators LSTM, GRU and RNN.

It has as many threads as the processor offers, as the others have; they sleep while they wait for work, as those of
torch do here. The model is of fixed shapes with the weights as constants, so that it can pack them ahead of time. Its
recurrent operators take sequences with time first, and nothing else: inputs are brought into that order before anything
is timed, and outputs into ours after it. That favours it a little: whoever has to turn batches does so in its time.
"""

import os
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from benchmarks import isa
from benchmarks.cases import GATES, Case
from benchmarks.contestants.interface import Contestant, Results, Run, refuse

OPERATORS = {"lstm": "LSTM", "gru": "GRU", "simple_rnn": "RNN"}
GATE_ORDER = {"lstm": (0, 3, 1, 2), "gru": (0, 1, 2), "simple_rnn": (0,)}
"""Which of our gates are first, second, ... in ONNX: an LSTM's i, f, c, o become i, o, f, c."""
INPUTS, OUTPUTS = "inputs", "outputs"
_OPSET, _FORMAT = 14, 8  # old enough for any version that is around


class OnnxRuntime(Contestant):
    """``onnxruntime.InferenceSession`` on a CPU."""

    platform = device = "cpu"

    def build(self, case: Case) -> Run:
        """See ``Contestant``."""
        refuse(
            (case.phase == "training", "has inference only"),
            (case.array_dtype != "float32", "has float32 only"),
            (case.variant == "mask", "takes lengths of sequences, and no masks"),
            (case.dropout > 0, "has no recurrent dropout"),
            (isa.is_held(), "cannot be held to AVX2"),
        )
        session = onnxruntime.InferenceSession(
            model(case).SerializeToString(), options(), providers=["CPUExecutionProvider"]
        )
        time_first = np.ascontiguousarray(case.inputs().swapaxes(0, 1))
        inputs = {INPUTS: onnxruntime.OrtValue.ortvalue_from_numpy(time_first)}

        def read(result: Any) -> Results:
            outputs = result[0].numpy().transpose(2, 0, 1, 3)  # from (T, directions, B, H)
            return {"outputs": outputs.reshape(*outputs.shape[:2], -1)}

        return Run(lambda: session.run_with_ort_values([OUTPUTS], inputs), read)


def options() -> Any:
    """Of a session: all cores, passive waiting, and nothing on stderr but errors."""
    made = onnxruntime.SessionOptions()
    made.intra_op_num_threads = threads()
    made.inter_op_num_threads = 1
    made.add_session_config_entry("session.intra_op.allow_spinning", "0")
    made.log_severity_level = 3
    return made


def threads() -> int:
    """How many XLA takes: one for each core that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def model(case: Case) -> Any:
    """``INPUTS`` ``(T, B, D)`` to ``OUTPUTS`` ``(T, directions, B, H)``, a node for each layer."""
    nodes: list[Any] = []
    constants = {"axes": np.array([1])} if case.depth > 1 else {}
    below = INPUTS
    for index, layer in enumerate(case.weights()):
        if index:  # a stack is of one direction
            nodes.append(helper.make_node("Squeeze", [below, "axes"], [f"{below}/squeezed"]))
            below = f"{below}/squeezed"
        arrays = {f"{name}{index}": array for name, array in tensors(case.cell, layer).items()}
        above = OUTPUTS if index == case.depth - 1 else f"layer{index}"
        nodes.append(helper.make_node(OPERATORS[case.cell], [below, *arrays], [above], **attributes(case)))
        constants |= arrays
        below = above
    shapes = {
        INPUTS: (case.steps, case.batch, case.features),
        OUTPUTS: (case.steps, case.directions, case.batch, case.units),
    }
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    initializers = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "layers", ends[:1], ends[1:], initializers)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_FORMAT)
    onnx.checker.check_model(made)
    return made


def attributes(case: Case) -> dict[str, Any]:
    """Of a node: its size, its directions, and the activations of all gates of each."""
    activation = case.activation.capitalize()
    gates = {"lstm": ["Sigmoid", activation, activation], "gru": ["Sigmoid", activation], "simple_rnn": [activation]}
    return {
        "hidden_size": case.units,
        "direction": "bidirectional" if case.directions == 2 else "forward",
        "activations": gates[case.cell] * case.directions,
    } | ({"linear_before_reset": 1} if case.cell == "gru" else {})


def tensors(cell: str, layer: Any) -> dict[str, np.ndarray]:
    """The weights of a layer by ONNX' names, with an axis of directions ahead; biases of the inputs come first."""

    def in_order(array: np.ndarray) -> np.ndarray:
        gates = np.split(array, GATES[cell], -1)
        return np.concatenate([gates[index] for index in GATE_ORDER[cell]], -1)

    def one_direction(weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        found = {"W": in_order(weights["kernel"]).T, "R": in_order(weights["recurrent_kernel"]).T}
        if "bias" in weights:
            bias = weights["bias"]
            found["B"] = in_order(bias if bias.ndim == 2 else np.stack([bias, np.zeros_like(bias)])).ravel()
        return found

    directions = [one_direction(weights) for weights in (layer if isinstance(layer, tuple) else (layer,))]
    return {name: np.stack([found[name] for found in directions]) for name in directions[0]}
