"""Several processes that train as one, by ``jax.distributed``: how they begin, agree and end."""

import argparse
import atexit
import json
import os
import socket
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from experiments import terminal
from experiments.files import Refused

if TYPE_CHECKING:
    from experiments.watch import Watch


@contextmanager
def together(options: argparse.Namespace, *alike: type[BaseException]) -> Generator[None]:
    """Within, this process is one of those that the command line or the system names, if it names any.

    Args:
      options: the command line.
      alike: exceptions that all processes have, if one has them. Others mean the end of this one alone, and the others
        will miss it.

    Raises:
      Refused: if they cannot be found.
    """
    if not (options.distributed or options.coordinator):
        yield
        return
    watch = _begin(options)
    ended: BaseException | None = None
    try:
        try:
            yield
        except alike as error:
            ended = error
        watch.leave()
    except BaseException as error:
        atexit.register(_end)  # behind whatever is still to say
        if isinstance(error, jax.errors.JaxRuntimeError) or "gloo" in str(error).lower():
            watch.wait_for_verdict()
        raise
    if ended is not None:
        raise ended


def _end() -> None:
    """Without waiting for the others, as jax would."""
    with suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    if is_first():  # when it ends, others do at once
        time.sleep(2)
    os._exit(1)


def _begin(options: argparse.Namespace) -> "Watch":
    from experiments.watch import Watch  # which needs inner parts of jax, for several processes only

    by_hand: dict[str, Any] = {}
    if options.coordinator:
        by_hand = {
            "coordinator_address": options.coordinator, "num_processes": options.processes,
            "process_id": options.process_id, "cluster_detection_method": "deactivate",
        }  # fmt: skip
        if options.process_id == 0:
            _check_free(int(options.coordinator.rpartition(":")[2]))
    # jax would take SIGTERM for itself, and end whoever misses another process.
    jax.config.update("jax_enable_preemption_service", False)
    jax.config.update("jax_enable_recoverability", True)
    watch = Watch(options.start_timeout, options.heartbeat_timeout)
    try:
        jax.distributed.initialize(
            **by_hand,
            initialization_timeout=options.start_timeout,
            heartbeat_timeout_seconds=options.heartbeat_timeout,
        )
    except (RuntimeError, ValueError) as error:
        watch.cancel()
        name = "coordinator" if by_hand else "distributed"
        raise Refused(f"--{name}: the processes cannot be found: {error}") from error
    jax.devices()  # the processes tell each other what they have
    watch.start()
    return watch


def _check_free(port: int) -> None:
    """Where jax cannot listen, it crashes.

    Raises:
      Refused: if that is so.
    """
    try:
        socket.create_server(("", port)).close()
    except OSError as error:
        raise Refused(f"--coordinator: process 0 cannot listen on port {port}: {error.strerror}") from error


def is_first() -> bool:
    """Whether this process is the one that prints, writes and saves."""
    return jax.process_index() == 0


def from_first(content: bytes) -> bytes:
    """What the first process gives here; what the others give does not matter."""
    if jax.process_count() == 1:
        return content
    size = int(multihost_utils.broadcast_one_to_all(np.uint32(len(content))))
    own = np.frombuffer(content, np.uint8) if is_first() else np.zeros(size, np.uint8)
    return np.asarray(multihost_utils.broadcast_one_to_all(own)).tobytes()


def check_alike(settings: dict[str, Any]) -> None:
    """Compares with the first process.

    Raises:
      Refused: if it has other ``settings``.
    """
    own = json.loads(json.dumps(settings, default=str))
    first = json.loads(from_first(json.dumps(own).encode()))
    if other := [name for name in sorted(first) if first[name] != own.get(name)]:
        lines = [f"{name}: expected {first[name]}, got {own.get(name)}" for name in other]
        raise Refused(f"process {jax.process_index()} would train something else than process 0: " + "; ".join(lines))


class Stop(terminal.Stop):
    """Notes what any of the processes is asked, so that all end behind the same step; all have to look alike often."""

    @property
    def signal(self) -> int | None:
        """The signal that a process has got; asks all."""
        if jax.process_count() == 1:
            return self._own
        return int(np.max(multihost_utils.process_allgather(np.int32(self._own or 0)))) or None

    @signal.setter
    def signal(self, number: int | None) -> None:  # pyright: ignore (an attribute there)
        self._own = number
