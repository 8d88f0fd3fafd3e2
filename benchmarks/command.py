"""What the commands have in common: how they read the line that they are called by, and how it is written down."""

import argparse
import sys


def parser(module: str, doc: str | None) -> argparse.ArgumentParser:
    """For ``python -m benchmarks.MODULE``, whose docstring is the help: a line, then all the rest."""
    description, _, rest = (doc or "").partition("\n\n")
    return argparse.ArgumentParser(
        prog=_called(module), description=description, epilog=rest,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip


def line(module: str, arguments: list[str] | None) -> str:
    """The command with its ``arguments``, by default those of this process."""
    return " ".join([_called(module), *(sys.argv[1:] if arguments is None else arguments)])


def _called(module: str) -> str:
    return f"python -m benchmarks.{module}"
