"""The command line of the experiment; what cannot be trained is refused here, before anything starts."""

import argparse
import math
from collections.abc import Callable
from pathlib import Path

from experiments.exports import EXPORTS
from experiments.model import DTYPES, LAYERS
from experiments.optimizers import SCHEDULES
from experiments.reviews import INDEX_FROM


def make(description: str) -> argparse.ArgumentParser:
    """All options, in groups; ``description`` is a line, and what stands below them."""
    head, _, rest = description.partition("\n\n")
    parser = argparse.ArgumentParser(
        prog="imdb.py", description=head, epilog=rest, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    _add_model(parser.add_argument_group("model"))
    _add_training(parser.add_argument_group("training"))
    _add_data(parser.add_argument_group("data"))
    _add_output(parser.add_argument_group("output"))
    _add_devices(parser.add_argument_group("devices"))
    return parser


def parse(description: str, arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line; ``description`` as in ``make``."""
    parser = make(description)
    options = parser.parse_args(arguments)
    _check_devices(parser, options)
    if options.patience is not None and not options.validation:
        parser.error(
            "argument --patience: expected --validation beside it, as stopping early looks at held-out reviews"
        )
    if options.at_once and options.seeds == 1:
        parser.error("argument --at-once: expected --seeds of at least 2 beside it, got 1")
    if options.every is not None and options.checkpoint is None:
        parser.error("argument --every: expected --checkpoint DIR beside it")
    return options


def _add_model(group: argparse._ArgumentGroup) -> None:  # pyright: ignore (argparse has no public name for it)
    add = group.add_argument
    add("--cell", choices=[*LAYERS, "all"], default="lstm", help="recurrent layer, or all three in turn [%(default)s]")
    add("--units", type=count(), default=128, help="size of the recurrent layer [%(default)s]")
    add("--embedding", type=count(), default=128, help="size of the word vectors [%(default)s]")
    add("--layers", type=count(), default=1, help="recurrent layers on top of each other [%(default)s]")
    add("--bidirectional", action="store_true", help="read in both directions, with twice the outputs")
    add("--dropout", type=_rate, default=0.2, help="rate on the layer's inputs [%(default)s]")
    add("--recurrent-dropout", type=_rate, default=0.2, help="rate on its state [%(default)s]")
    add(
        "--dtype", choices=[*DTYPES], default="float32",
        help="of the computation; weights, sums and states stay float32 [%(default)s]",
    )  # fmt: skip


def _add_training(group: argparse._ArgumentGroup) -> None:  # pyright: ignore (as above)
    add = group.add_argument
    add("--epochs", type=count(), default=2, help="passes over the reviews [%(default)s]")
    add("--batch-size", type=count(), default=32, help="reviews in a step [%(default)s]")
    add("--learning-rate", type=_positive, default=1e-3, help="of Adam [%(default)s]")
    add("--schedule", choices=SCHEDULES, default="constant", help="of the learning rate, down to 0 [%(default)s]")
    add("--warmup", type=count(0), default=0, metavar="STEPS", help="steps in which it rises first [%(default)s]")
    add(
        "--clip-norm",
        type=_positive,
        metavar="NORM",
        help="scale gradients of a larger norm down to it [never]",
    )
    add("--weight-decay", type=_not_negative, default=0.0, help="of matrices, as in AdamW [%(default)s]")
    add("--seed", type=count(0), default=0, help="of weights, dropout and the order of reviews [%(default)s]")
    add("--seeds", type=count(), default=1, help="train with so many seeds, from --seed on [%(default)s]")
    add(
        "--at-once",
        action="store_true",
        help="train all seeds of a cell in one program, compiled once; docs/imdb.md has when it pays",
    )
    add(
        "--validation", type=_rate, default=0.0, metavar="SHARE",
        help="share of the training reviews, the last ones, that is held out; the model with the least loss on them is "
        "the one that is kept [%(default)s]",
    )  # fmt: skip
    add("--patience", type=count(), metavar="EPOCHS", help="stop after so many epochs in which that loss did not fall")


def _add_data(group: argparse._ArgumentGroup) -> None:  # pyright: ignore (as above)
    add = group.add_argument
    add(
        "--data", choices=("auto", "imdb", "generated"), default="auto",
        help="imdb: the real reviews; generated: made-up ones; auto: the real ones, or else, after a warning, the "
        "made-up ones [%(default)s]",
    )  # fmt: skip
    add("--data-dir", help="folder of TensorFlow Datasets [$TFDS_DATA_DIR or ~/tensorflow_datasets]")
    add("--num-words", type=count(INDEX_FROM + 1), default=10_000, help="size of the vocabulary [%(default)s]")
    add("--maxlen", type=count(), default=80, help="words of a review, the last ones [%(default)s]")
    add("--limit", type=count(), help="reviews in each split, for a quick look [all]")


def _add_output(group: argparse._ArgumentGroup) -> None:  # pyright: ignore (as above)
    add = group.add_argument
    add(
        "--output", type=Path, default=Path("runs/imdb"),
        help="folder for results.json, table.md, learning_curves.png, and of each cell the model of the first seed, as "
        "CELL.safetensors and CELL.json [%(default)s]",
    )  # fmt: skip
    add(
        "--checkpoint", type=Path, metavar="DIR",
        help="folder for all that training changes; the same command goes on from there, and ends as if it had never "
        "been interrupted",
    )  # fmt: skip
    add("--every", type=count(), metavar="STEPS", help="save after so many steps, and after each epoch [250]")
    add("--log", type=Path, metavar="FILE", help="note each few steps and each epoch there, as lines of JSON")
    add("--tensorboard", type=Path, metavar="DIR", help="note the same there, for TensorBoard; needs tensorboardX")
    add(
        "--export", nargs="+", choices=EXPORTS, default=[], metavar="FORMAT",
        help="write the model also as CELL.keras (keras) or as what jax runs by itself, CELL.jax (jax)",
    )  # fmt: skip


DEVICES = (
    "devices", "distributed", "coordinator", "processes", "process_id", "start_timeout", "heartbeat_timeout",
)  # fmt: skip
"""Options that say what trains, and not what is trained."""


def _add_devices(group: argparse._ArgumentGroup) -> None:  # pyright: ignore (as above)
    add = group.add_argument
    add("--devices", type=count(), metavar="N", help="of each process, so many; a CPU is taken for so many [all]")
    add(
        "--distributed", action="store_true",
        help="be one of the processes that Slurm, Open MPI or Kubernetes has started",
    )  # fmt: skip
    add("--coordinator", type=_address, metavar="HOST:PORT", help="or be one of --processes: where process 0 listens")
    add("--processes", type=count(), metavar="N", help="how many there are")
    add("--process-id", type=count(0), metavar="I", help="which of them this is, from 0 on")
    add(
        "--start-timeout", type=count(), default=300, metavar="SECONDS",
        help="how long they may take to find each other [%(default)s]",
    )  # fmt: skip
    add(
        "--heartbeat-timeout", type=count(), default=30, metavar="SECONDS",
        help="a process that gives no sign of life for so long is lost, and ends the others [%(default)s]",
    )  # fmt: skip


def _check_devices(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    by_hand = {name: getattr(options, name.replace("-", "_")) for name in ("coordinator", "processes", "process-id")}
    given = [name for name, value in by_hand.items() if value is not None]
    missing = [f"--{name}" for name in by_hand if name not in given]
    if given and missing:
        parser.error(f"argument --{given[0]}: expected {' and '.join(missing)} beside it")
    if given and options.distributed:
        parser.error("argument --distributed: expected no --coordinator, which says the same by hand")
    if given and options.process_id >= options.processes:
        parser.error(
            f"argument --process-id: expected a number below --processes {options.processes}, got {options.process_id}"
        )


def count(least: int = 1) -> Callable[[str], int]:
    """Whole numbers from ``least`` on."""

    def read(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if value < least:
            raise argparse.ArgumentTypeError(f"expected a whole number of at least {least}, got {text}")
        return value

    return read


def _address(text: str) -> str:
    host, _, port = text.rpartition(":")
    if not (host and port.isdecimal() and 0 < int(port) < 2**16):
        raise argparse.ArgumentTypeError(f"expected HOST:PORT, got {text}")
    return text


def _number(text: str) -> float:
    """NaN for what is none."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def _positive(text: str) -> float:
    value = _number(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text}")
    return value


def _not_negative(text: str) -> float:
    value = _number(text)
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"expected a number of at least 0, got {text}")
    return value


def _rate(text: str) -> float:
    value = _number(text)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"expected a rate in [0, 1), got {text}")
    return value
