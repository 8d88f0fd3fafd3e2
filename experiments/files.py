"""Files that are written as a whole, and none that is lost for another."""

import os
from collections.abc import Sequence
from pathlib import Path


class Refused(RuntimeError):
    """Something is in the way; the message says what, and what to do about it."""


def replace(path: Path, text: str) -> None:
    """Writes a file as a whole, or not at all."""
    new = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        new.write_text(text, encoding="utf-8")
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)


def prepare(folder: Path, names: Sequence[str]) -> Path | None:
    """Makes a folder that can be written, and moves ``names`` out of it into one within, which it returns.

    Raises:
      OSError: if it cannot be made or written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    replace(folder / "test", "")
    (folder / "test").unlink()
    found = [folder / name for name in names if (folder / name).exists()]
    if not found:
        return None
    number = 1
    while (earlier := folder / f"earlier-{number}").exists():
        number += 1
    earlier.mkdir()
    for path in found:
        path.rename(earlier / path.name)
    return earlier
