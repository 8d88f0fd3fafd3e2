"""Training on several devices: each has all that training changes, and its rows of every batch."""

import argparse
import contextlib
from collections import defaultdict
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from experiments.files import Refused

AXIS = "data"
"""The axis of a mesh that a batch is divided over."""


def ask_for(count: int | None) -> None:
    """Has jax make enough devices of a processor, if it has not started yet; other devices are what they are.

    XLA has a thread for each, and one that waits for the others blocks its own. With none to spare, programs were seen
    to wait for ever, so there are twice as many as are used.
    """
    if count is None:
        return
    with contextlib.suppress(RuntimeError):  # it has; `make_mesh` tells if these are too few
        jax.config.update("jax_num_cpu_devices", 2 * count if count > 1 else 1)


def make_mesh(options: argparse.Namespace) -> Mesh | None:
    """All devices of all processes, or the first ``--devices`` of each, as one axis; ``None`` if that is one device.

    The devices of a process are neighbours.

    Raises:
      Refused: if there are fewer, not as many in each process, or they do not divide the batches. Rows of weight 0
        would make up for that, but then some devices would do nothing of use, and nobody would know.
    """
    found: defaultdict[int, list[Any]] = defaultdict(list)
    for device in sorted(jax.devices(), key=lambda device: device.id):
        found[device.process_index].append(device)
    least, most = min(map(len, found.values())), max(map(len, found.values()))
    wanted = options.devices or most
    if wanted > least:
        counts = f"{least}, as there are no more" if least == most else f"{least}, as a process has no more"
        raise Refused(f"--devices: expected at most {counts}, got {options.devices or f'{most} on another process'}")
    chosen = [device for process in sorted(found) for device in found[process][:wanted]]
    if options.batch_size % len(chosen):
        raise Refused(
            f"--batch-size: expected a multiple of {len(chosen)}, the number of devices, got {options.batch_size}; "
            "--devices takes fewer of them"
        )
    return Mesh(np.array(chosen), (AXIS,)) if len(chosen) > 1 else None


def whole(mesh: Mesh) -> NamedSharding:
    """That of an array that each device has."""
    return NamedSharding(mesh, PartitionSpec())


def divide(mesh: Mesh, rows: np.ndarray, axis: int = 0) -> Any:
    """An array whose ``axis`` is divided over all devices, of the rows that this process has."""
    sharding = NamedSharding(mesh, PartitionSpec(*[None] * axis, AXIS))
    return jax.make_array_from_process_local_data(sharding, rows)


def own_rows(size: int) -> slice:
    """Those that this process has of ``size`` rows."""
    process, processes = jax.process_index(), jax.process_count()
    return slice(size * process // processes, size * (process + 1) // processes)


def copy_to(where: jax.sharding.Sharding, tree: Any) -> Any:
    """The arrays, of which all processes have the same, on several devices; ``jax.device_put`` has no way for keys."""
    return jax.jit(lambda tree: tree, out_shardings=where)(tree)


def copy_as(like: Any, tree: Any) -> Any:
    """The arrays on the devices of another one's."""
    where = jax.tree.leaves(like)[0].sharding
    return copy_to(where, tree) if len(where.device_set) > 1 else tree
