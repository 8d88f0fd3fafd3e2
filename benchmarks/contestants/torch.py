"""``torch.nn.RNN``, ``LSTM`` and ``GRU``: oneDNN on a CPU, cuDNN on a GPU."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from benchmarks.cases import Case, array_dtype
from benchmarks.contestants.cudnn_algorithm import Device, in_words
from benchmarks.contestants.interface import Contestant, Run, of_weights, refuse
from flax_rnn.convert import from_torch, to_torch

MODULES = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU, "simple_rnn": torch.nn.RNN}


def where() -> tuple[str, str]:
    """Platform and name of the device that torch takes."""
    return ("gpu", torch.cuda.get_device_name()) if torch.cuda.is_available() else ("cpu", "cpu")


def use_precision(dtype: str) -> None:
    """TF32 in ``tf32`` alone, for all that runs from here on."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = dtype == "tf32"


def wait(result: Any = None) -> None:
    """Until the GPU has done everything, and so ``result``, too."""
    del result
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def tensor(array: np.ndarray, dtype: str, requires_grad: bool = False) -> torch.Tensor:
    """``array`` on the device, in one of the dtypes of cases."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.from_numpy(array).to(device, getattr(torch, array_dtype(dtype))).requires_grad_(requires_grad)


def array(tensor: torch.Tensor) -> np.ndarray:
    """``tensor`` in NumPy, float32."""
    return tensor.detach().float().cpu().numpy()


def start(case: Case, module: Callable[..., torch.Tensor], parameters: list[Any]) -> Callable[[], tuple[Any, Any]]:
    """``() -> (outputs, gradients of the inputs and parameters or None)``."""
    training = case.phase == "training"
    x = tensor(case.inputs(), case.dtype, requires_grad=training)
    cotangent = tensor(case.cotangent(), case.dtype)

    def start() -> tuple[Any, Any]:
        use_precision(case.dtype)
        if training:
            outputs = module(x)
            return outputs, torch.autograd.grad(outputs, [x, *parameters], cotangent)
        with torch.no_grad():
            return module(x), None

    return start


class Torch(Contestant):
    """``torch.nn``."""

    def __init__(self) -> None:
        self.platform, self.device = where()

    def product(self, dtype: str, size: int) -> Callable[[], Any]:
        """Of two random matrices."""
        a, b = (tensor(np.random.default_rng(i).standard_normal((size, size), np.float32), dtype) for i in range(2))

        def call() -> None:
            use_precision(dtype)
            torch.mm(a, b)
            wait()

        return call

    def build(self, case: Case) -> Run:
        """See ``Contestant``."""
        options = {"nonlinearity": case.activation} if case.cell == "simple_rnn" else {}
        refuse(
            (case.variant == "mask", "takes lengths of sequences, and no masks"),
            (case.dropout > 0, "has no recurrent dropout"),
            (case.activation != "tanh" and not options, "has tanh only"),
        )
        module = MODULES[case.cell](
            case.features, case.units, case.depth, bias=case.bias, batch_first=True,
            bidirectional=case.directions == 2, **options,
        )  # fmt: skip
        module.load_state_dict({name: torch.from_numpy(a) for name, a in to_torch(case.weights()).items()})
        module.to("cuda" if self.platform == "gpu" else "cpu", getattr(torch, case.array_dtype))
        module.train(case.phase == "training")
        names = [name for name, _ in module.named_parameters()]

        def read(result: tuple[Any, Any]) -> dict[str, np.ndarray]:
            outputs, gradients = result
            if gradients is None:
                return {"outputs": array(outputs)}
            inputs, *weights = map(array, gradients)
            # The two biases of torch have one gradient; from_torch would add it to itself.
            state = {n: np.zeros_like(a) if "bias_hh" in n else a for n, a in zip(names, weights, strict=True)}
            return {"outputs": array(outputs), "inputs": inputs} | of_weights(from_torch(state))

        return Run(start(case, lambda x: module(x)[0], list(module.parameters())), read, wait)

    def note(self, case: Case) -> str | None:
        """Which of cuDNN's algorithms torch asks for."""
        if self.platform != "gpu":
            return None
        found = torch.cuda.get_device_properties(0)
        return in_words(case, Device(found.major, found.minor, found.multi_processor_count))
