"""Who takes part, behind one small interface; ``python -m benchmarks.contestants NAME`` serves one of them."""

import importlib
from typing import Any

from benchmarks.contestants.interface import Absent as Absent
from benchmarks.contestants.interface import Contestant as Contestant
from benchmarks.contestants.interface import Results as Results
from benchmarks.contestants.interface import Run as Run

IMPLEMENTATIONS = ("native", "fused", "scan", "cudnn", "cuda")
OURS = ("flax-rnn", "flax-rnn-tuned", *IMPLEMENTATIONS)
"""flax_rnn as it is; as ``flax_rnn.runtime`` recommends; and with the implementations that are asked for by name.

``cudnn`` is ours upon cuDNN; ``jax-cudnn`` is ``jax.experimental.rnn`` by itself.
"""

_CLASSES: dict[str, tuple[str, tuple[Any, ...]]] = {
    "flax-rnn": ("ours:Ours", ("auto",)),
    "flax-rnn-tuned": ("ours:Ours", ("auto", True)),
    **{name: ("ours:Ours", (name,)) for name in IMPLEMENTATIONS},
    "flax-linen": ("flax_linen:Linen", ("OptimizedLSTMCell",)),
    "flax-linen-lstmcell": ("flax_linen:Linen", ("LSTMCell",)),
    "flax-nnx": ("flax_nnx:NNX", ("OptimizedLSTMCell",)),
    "flax-nnx-lstmcell": ("flax_nnx:NNX", ("LSTMCell",)),
    "keras-jax": ("keras:OnJax", ()),
    "keras-tensorflow": ("keras:OnTensorFlow", ()),
    "keras-torch": ("keras:OnTorch", ()),
    "torch": ("torch:Torch", ()),
    "onnxruntime": ("onnxruntime:OnnxRuntime", ()),
    "jax-cudnn": ("jax_cudnn:JaxCuDNN", ()),
}
PRODUCTS = ("torch", "flax-rnn")
"""Who shows what a machine is capable of; others have the products of one of these."""
PEERS = tuple(name for name in _CLASSES if name not in OURS)


def load(name: str) -> Contestant:
    """The contestant of that name; its frameworks are imported here.

    Raises:
      Absent: where they are not installed.
    """
    path, arguments = _CLASSES[name]
    module, _, attribute = path.partition(":")
    try:
        return getattr(importlib.import_module(f"benchmarks.contestants.{module}"), attribute)(*arguments)
    except ModuleNotFoundError as error:
        raise Absent(f"{error.name} is not installed") from error
