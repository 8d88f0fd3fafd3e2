"""What a training step on many GPUs spends in communication: calculated, not measured.

A step is computed from the sizes of a model and from what is assumed of a machine, all of it named in the output. In
data-parallel training the devices add up the gradients of all weights once in a step. Where eight GPUs share the units
of each layer, as in ``examples/tensor_parallel.py``, they exchange the states at each time step, and gradients are
added up over an eighth of the weights each. Nothing overlaps: gradients of a recurrent layer are known when the last
step of its backward pass is done.

    python -m benchmarks.communication --write
"""

import math
from dataclasses import dataclass, replace

from benchmarks import command, pages
from benchmarks.tables import markdown

COMMAND = "python -m benchmarks.communication"
GPUS = (8, 64, 512)
NODE = 8
"""GPUs that are joined by NVLink, over which units are divided."""


@dataclass(frozen=True)
class Machine:
    """Bytes, seconds and operations a second, of one GPU.

    Published figures are those of one direction; what is assumed of them is ``reached``, the part that programs get.

    Source: NVIDIA, "H100 Tensor Core GPU" (data sheet: SXM, without sparsity) for ``flops``, ``memory`` and ``nvlink``
    (900 GB/s in both directions together); NVIDIA, "DGX H100" (data sheet: one ConnectX-7 of 400 Gb/s for each GPU) for
    ``network``; NVIDIA, "H100 Tensor Core GPU Architecture" for ``cache``.
    """

    flops: float = 989e12
    memory: float = 3.35e12
    cache: float = 50e6
    nvlink: float = 450e9
    network: float = 50e9
    reached: float = 0.5
    launch: float = 2e-6
    nvlink_hop: float = 1e-6
    network_hop: float = 5e-6
    collective: float = 5e-6


@dataclass(frozen=True)
class Model:
    """A stack of LSTMs on an embedding, computed in bfloat16 with weights and gradients in float32.

    Attributes:
      name: what to call it.
      words: of the embedding, with ``units`` each.
      layers, units: of the stack.
      rows, steps: of the batch of one GPU, ``(rows, steps, units)``.
      share: over how many devices the units are divided, whose rows come together.
    """

    name: str
    words: int
    layers: int
    units: int
    rows: int
    steps: int
    share: int = 1

    @property
    def parameters(self) -> int:
        """In all."""
        return self.words * self.units + self.layers * (8 * self.units**2 + 4 * self.units) + self.units + 1


MODELS = (
    Model("IMDB, 1 x 128", 10_000, 1, 128, 32, 80),
    Model("2 x 1024", 10_000, 2, 1024, 64, 256),
    Model("4 x 4096", 10_000, 4, 4096, 64, 256),
    Model("4 x 4096", 10_000, 4, 4096, 8, 256),
    Model("4 x 16384", 10_000, 4, 16384, 64, 256),
)

LAUNCHES = 2.25, 3.625
"""Of a time step, forward and backward: the LSTM in bfloat16 in ``results/launches-jax-0.11.2.md``."""


def computing(model: Model, machine: Machine) -> float:
    """Seconds of a step without any exchange.

    A time step takes as long as its product, as reading the recurrent weights, where the cache does not hold them, or
    as its launches, whichever is the most; all other products are made for all time steps at once. An Adam step reads
    four numbers of each weight, and writes three.
    """
    rows, units, own = model.rows * model.share, model.units, model.units / model.share
    speed = machine.flops * machine.reached
    product = 2 * rows * units * 4 * own / speed
    weights = 2 * units * 4 * own
    reading = weights / (machine.memory * machine.reached) if weights > machine.cache else 0.0
    loop = sum(max(product, reading, launches * machine.launch) for launches in LAUNCHES)
    update = 7 * 4 * model.parameters / model.share / (machine.memory * machine.reached)
    return model.layers * model.steps * (loop + 4 * product) + update


def adding(size: float, gpus: int, machine: Machine) -> float:
    """Seconds to add up ``size`` bytes of each of so many GPUs: rings within the nodes, and between them of parts."""
    inside, nodes = min(gpus, NODE), math.ceil(gpus / NODE)
    seconds = machine.collective + _ring(size, inside, machine.nvlink * machine.reached, machine.nvlink_hop)
    return seconds + _ring(size / inside, nodes, machine.network * machine.reached, machine.network_hop)


def _ring(size: float, members: int, bandwidth: float, hop: float) -> float:
    """Each member sends ``2 (n - 1) / n`` of its bytes; small arrays go by a tree of ``2 log2 n`` hops."""
    return 2 * (members - 1) / members * size / bandwidth + 2 * math.log2(members) * hop


def exchanging(model: Model, machine: Machine) -> float:
    """Seconds in which those who share the units tell each other states and their gradients.

    In each time step and layer there is a gathering of ``(rows, units)`` forwards, and a scattered sum backwards; for
    all time steps at once another of each, and two sums for the inputs.
    """
    if model.share == 1:
        return 0.0
    part = (model.share - 1) / model.share
    size = 2 * model.rows * model.share * model.units
    move = part * size / (machine.nvlink * machine.reached)
    each = machine.collective + (model.share - 1) * machine.nvlink_hop + move
    at_once = 4 * model.steps * move
    return model.layers * (2 * model.steps * each + at_once)


def cost(model: Model, gpus: int, machine: Machine) -> tuple[float, float]:
    """Seconds of computing and of communication, of a step on so many GPUs."""
    return computing(model, machine), exchanging(model, machine) + _gradients(model, gpus, machine)


def _gradients(model: Model, gpus: int, machine: Machine) -> float:
    """Where units are shared, each GPU adds up its part with its counterparts in the other nodes."""
    size = 4 * model.parameters
    if model.share == 1:
        return adding(size, gpus, machine)
    nodes = gpus // model.share
    between = _ring(size / model.share, nodes, machine.network * machine.reached, machine.network_hop)
    return machine.collective + between if nodes > 1 else 0.0


def table(machine: Machine) -> str:
    """A line for each model and way to divide it."""
    lines: list[list[str]] = []
    for model in MODELS:
        for way, one in (("rows", model), ("rows and units", replace(model, share=NODE))):
            times = [cost(one, gpus, machine) for gpus in GPUS]
            talk = [f"{1e3 * talk:,.2f} ({100 * talk / (compute + talk):.0f} %)" for compute, talk in times]
            held = 12e-9 * model.parameters / one.share
            lines.append([model.name, way, f"{model.rows}", f"{held:,.3f}", f"{1e3 * times[0][0]:,.2f}", *talk])
    header = ["LSTM", "divided", "rows a GPU", "GB a GPU", "computing, ms"]
    return markdown([*header, *(f"on {gpus} GPUs, ms" for gpus in GPUS)], lines, 2)


def assumptions(machine: Machine) -> str:
    """In words, with the numbers."""
    return (
        f"Calculated, not measured, for H100 GPUs of the SXM form. Published: {machine.flops / 1e12:.0f} TFLOP/s in "
        f"bfloat16, {machine.memory / 1e12:.2f} TB/s of memory, a cache of {machine.cache / 1e6:.0f} MB, NVLink with "
        f"{machine.nvlink / 1e9:.0f} GB/s in each direction among {NODE} GPUs, and between nodes InfiniBand with "
        f"{8 * machine.network / 1e9:.0f} Gb/s for each GPU. Assumed: programs reach {100 * machine.reached:.0f} % of "
        f"each; a launch takes {1e6 * machine.launch:.0f} µs, and a time step of a layer has {LAUNCHES[0]:g} forwards "
        f"and {LAUNCHES[1]:g} backwards; a collective takes {1e6 * machine.collective:.0f} µs to start, "
        f"{1e6 * machine.nvlink_hop:.0f} µs for each hop over NVLink and {1e6 * machine.network_hop:.0f} µs over the "
        f"network; nothing overlaps. Sequences have {MODELS[1].steps} steps, those of IMDB {MODELS[0].steps}; "
        f"embeddings have {MODELS[0].words:,} words. `GB a GPU` are weights and Adam's moments in float32. Columns of "
        f"GPUs have the milliseconds of communication on top of the computing, and their part of the step."
    )


def section() -> str:
    """What the page has: assumptions, and what follows from them."""
    return f"{assumptions(Machine())}\n\n{table(Machine())}"


def main(arguments: list[str] | None = None) -> None:
    """Prints the section, or writes it into the page."""
    parser = command.parser("communication", __doc__)
    parser.add_argument("--write", action="store_true", help=f"into docs/{pages.SCALING.name} instead of printing it")
    if parser.parse_args(arguments).write:
        pages.insert(pages.SCALING, COMMAND, section())
    else:
        print(section())


if __name__ == "__main__":
    main()
