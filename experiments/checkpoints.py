"""All that a training changes, on disk by orbax, so that it can be interrupted at any moment.

A folder has ``settings.json``, what is trained on what, and a numbered folder for each save, of which the last two are
kept. Orbax writes a save under another name and renames it, so that one that was interrupted is none. Each has a digest
of all that is in it, since a disk may give back something else than it was given: a save that does not agree with its
digest is set aside, and the one before is taken.
"""

import fcntl
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from experiments import devices, leaves, processes
from experiments.files import Refused, replace

KEEP = 2
"""How many saves there are, so that one is left where the last is damaged."""


class Store:
    """The saves of one training.

    Attributes:
      last: the save that a restored training goes on from, or the last one of this training.
      problem: why the last save failed.
    """

    def __init__(self, folder: Path, settings: dict[str, Any], every: int):
        """Opens or makes the folder of a training with ``settings``, which is saved after ``every`` steps of an epoch.

        Raises:
          Refused: if it cannot be written, another program has it, or it is of other settings.
        """
        self.folder, self.every = folder.absolute(), every
        self.last: Path | None = None
        self.problem = ""
        self._saved_steps = 0
        try:
            str(self.folder).encode()
            self.folder.mkdir(parents=True, exist_ok=True)
            # Held as long as this is open, and by nobody when the program is killed.
            self._lock = (self.folder / "lock").open("w")
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._check(settings)
            self._manager = self._open()
        except BlockingIOError as error:
            raise Refused(f"--checkpoint: {self.folder} is in use by another program") from error
        except UnicodeEncodeError as error:  # orbax needs UTF-8, which Python may have been told to do without
            raise Refused(
                f"--checkpoint: cannot write to {self.folder}: expected a name in UTF-8; PYTHONUTF8=1 may help"
            ) from error
        except OSError as error:
            raise Refused(f"--checkpoint: cannot write to {self.folder}: {error}") from error

    def close(self) -> None:
        """Lets another program have the folder."""
        self._manager.close()
        self._lock.close()

    @property
    def advice(self) -> str:
        """How to go on."""
        if self.last is None:
            return f"Nothing could be saved: {self.problem}"
        return f"The same command goes on from {self.last}" + (f", as {self.problem}" if self.problem else "")

    def is_due(self, steps: int) -> bool:
        """Whether so many steps of an epoch are enough to save them."""
        return steps - self._saved_steps >= self.every

    def restore(self, like: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]] | None:
        """The last save that is whole: the arrays, of which ``like`` is an example, and the rest; ``None`` if none is.

        Parts of ``like`` that were not saved are left out. A damaged save is set aside, by another name. Of several
        processes, all get what the first one reads. The arrays are on the devices of ``like``.

        Raises:
          Refused: if there are saves, and all are damaged.
        """
        found = self._find(like)
        if jax.process_count() > 1:
            content = processes.from_first(b"" if found is None else leaves.pack(*found))
            found = leaves.unpack(content, like) if content else None
        if found is None:
            return None
        arrays, about = found
        return devices.copy_as(like, arrays), about

    def _find(self, like: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]] | None:
        damaged: list[str] = []
        for step in sorted(self._manager.all_steps(), reverse=True):
            try:
                found = self._read(step, like)
            except Exception as error:  # whatever a damaged file makes orbax and its libraries raise
                damaged.append(f"{self._path(step)} ({type(error).__name__}: {str(error).splitlines()[:1]})")
                continue
            self.last = self._path(step)
            for bad in [one for one in self._manager.all_steps() if one > step]:
                self._path(bad).rename(self._path(bad).with_name(f"damaged-{bad}"))
            self._manager.reload()
            if damaged:
                self.problem = f"{', '.join(damaged)} is damaged, and set aside"
            self._saved_steps = len(found[1].get("sums", []))
            return found
        if damaged:
            raise Refused(
                f"--checkpoint: no save in {self.folder} can be read: {', '.join(damaged)}. Nothing was changed; name "
                "another folder to start anew"
            )
        return None

    def save(self, arrays: dict[str, Any], about: dict[str, Any]) -> bool:
        """Saves; returns whether that went well, and else says why in ``problem``."""
        step = max([*self._manager.all_steps(), *self._numbers()], default=0) + 1
        flat = leaves.numbers(arrays)
        rest = {"about": about, "digest": digest(flat, about)}
        try:
            self._manager.save(
                step, args=ocp.args.Composite(arrays=ocp.args.StandardSave(flat), rest=ocp.args.JsonSave(rest))
            )
        except Exception as error:  # a full disk shows in many ways
            self.problem = f"it could not be saved: {str(error).splitlines()[0]}. The last save is {self.last}"
            return False
        self.last, self.problem = self._path(step), ""
        self._saved_steps = len(about.get("sums", []))
        return True

    def _open(self) -> ocp.CheckpointManager:
        options = ocp.CheckpointManagerOptions(
            create=False,
            max_to_keep=KEEP,
            cleanup_tmp_directories=True,
            enable_async_checkpointing=False,
            multiprocessing_options=_alone(),
        )
        try:
            return ocp.CheckpointManager(self.folder, options=options)
        except OSError:
            raise
        except Exception:  # as what orbax notes of a save, which is not needed to read it, is damaged
            for path in self.folder.glob("*/_CHECKPOINT_METADATA"):
                path.rename(path.with_name(f"damaged{path.name}"))
            return ocp.CheckpointManager(self.folder, options=options)

    def _read(self, step: int, like: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        args = ocp.args.Composite(arrays=ocp.args.StandardRestore(), rest=ocp.args.JsonRestore())
        found: Any = self._manager.restore(step, args=args)
        flat = {name: np.asarray(leaf) for name, leaf in found.arrays.items()}
        about, expected = found.rest["about"], found.rest["digest"]
        if digest(flat, about) != expected:
            raise ValueError("it is not what was saved")
        return leaves.as_like(flat, like), about

    def _check(self, settings: dict[str, Any]) -> None:
        """Compares with the settings that the folder is of, or notes them.

        Raises:
          Refused: if they differ.
        """
        path = self.folder / "settings.json"
        text = json.dumps(settings, indent=1, sort_keys=True)
        if not path.exists():
            replace(path, text)
        try:
            found = dict(json.loads(path.read_text()))
        except (ValueError, TypeError) as error:
            raise Refused(f"--checkpoint: {path} is damaged ({error}); name another folder") from error
        wanted = json.loads(text)
        if other := [name for name in sorted({*found, *wanted}) if found.get(name) != wanted.get(name)]:
            lines = [f"{name}: expected {found.get(name)} as in {path}, got {wanted.get(name)}" for name in other]
            raise Refused(
                "--checkpoint: the folder is of another training: " + "; ".join(lines) + ". Name another folder"
            )

    def _path(self, step: int) -> Path:
        return self.folder / str(step)

    def _numbers(self) -> Iterator[int]:
        """Those that were given, also to saves that were set aside."""
        for path in self.folder.iterdir():
            number = path.name.removeprefix("damaged-")
            if number.isdecimal():
                yield int(number)


class Follower(Store):
    """What all processes but the first have: they know of no disk, and are told what it has."""

    def __init__(self) -> None:
        self.last, self.problem = None, ""

    def close(self) -> None:
        """See above."""

    def is_due(self, steps: int) -> bool:
        """The first process saves."""
        return False

    def save(self, arrays: dict[str, Any], about: dict[str, Any]) -> bool:
        """And says how that went."""
        return True

    def _find(self, like: dict[str, Any]) -> None:
        return None


def digest(arrays: dict[str, np.ndarray], about: dict[str, Any]) -> str:
    """A number of all that is saved."""
    found = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for name in sorted(arrays):
        found.update(f"{name} {arrays[name].dtype} {arrays[name].shape}".encode())
        found.update(np.ascontiguousarray(arrays[name]).tobytes())
    return found.hexdigest()


def _alone() -> Any:
    """The processes beside this one have no part in it."""
    if jax.process_count() == 1:
        return ocp.options.MultiprocessingOptions()
    me = jax.process_index()
    return ocp.options.MultiprocessingOptions(primary_host=me, active_processes={me}, barrier_sync_key_prefix="first")
