"""Ends a process of several, with a line that says which other one was lost, instead of waiting for it for ever.

jax by itself has processes notice that another has died by the same signs of life, but ends them by ``abort``, with a
page of C++, or leaves them to wait. Here a thread asks which processes are alive (``live_devices``). The first process
tells that to the others: where it is lost itself, jax's ``abort`` cannot be avoided, but is given a last line.
"""

import contextlib
import ctypes
import os
import signal
import socket
import sys
import threading
import time
from typing import Any

import jax
from jax._src.distributed import global_state as world  # who is who, where jax has found it out by itself
from jax.experimental import multihost_utils

POLL = 1.0
"""Seconds between two questions."""

GO_ON = "Training has ended; with --checkpoint, the same command goes on from the last save, on fewer processes, too"

_Handler: Any = ctypes.CFUNCTYPE(None, ctypes.c_int)


def _on_abort(handler: Any) -> None:
    """Has C call ``handler`` ahead of an abort, or nothing; one of Python's would run behind it, which is never."""
    if os.name == "posix":
        set_handler = ctypes.CDLL(None).signal
        set_handler.restype, set_handler.argtypes = ctypes.c_void_p, [ctypes.c_int, ctypes.c_void_p]
        set_handler(signal.SIGABRT, ctypes.cast(handler, ctypes.c_void_p) if handler else None)  # SIG_DFL is 0


class Watch:
    """Watches over the other processes.

    Args:
      patience: how many seconds the processes have to find each other.
      silence: how many seconds without a sign of life make one lost.
    """

    def __init__(self, patience: int, silence: int):
        self.patience, self.silence = patience, silence
        self._leaving = False
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._handler = _Handler(self._aborted)
        _on_abort(self._handler)

    def start(self) -> None:
        """To be called when all processes have found each other."""
        self._thread.start()

    def leave(self) -> None:
        """Ends, when all processes are here, what they have to do with each other."""
        multihost_utils.sync_global_devices("at the end")
        self._leaving = True
        multihost_utils.sync_global_devices("all know")
        if world.process_id:
            self._stopped.set()
        self._thread.join(self.silence)  # the first process waits for the others, which need it until they end
        self.cancel()
        jax.distributed.shutdown()

    def cancel(self) -> None:
        """Leaves the abort as it was."""
        _on_abort(None)

    def wait_for_verdict(self) -> None:
        """Gives the thread the time that it takes to find out who was lost, if that is what went wrong."""
        time.sleep(self.silence + 3 * POLL)

    def _look(self) -> None:
        devices = jax.devices()
        others = {device.process_index for device in devices} - {world.process_id}
        while not self._stopped.wait(POLL):
            try:
                with multihost_utils.live_devices(devices) as live:
                    lost = others - {device.process_index for device in live}
            except Exception:  # which one a loss raises depends on the version of jax
                continue  # the next answer has who
            if self._leaving:
                if lost == others:
                    return
            elif lost:
                self._end(lost)

    def _end(self, lost: set[int]) -> None:
        names = ("process " if len(lost) == 1 else "processes ") + ", ".join(map(str, sorted(lost)))
        self._say(f"{names} {'was' if len(lost) == 1 else 'were'} lost: no sign of life for {self.silence} s. {GO_ON}")
        if world.process_id == 0:  # without which the others could not say so
            time.sleep(2 * POLL)
        os._exit(1)

    def _aborted(self, _: int) -> None:
        first = f"process 0, which coordinates the others at {world.coordinator_address},"
        if not self._thread.is_alive():
            missing = f"{first} was not" if world.process_id else f"not all of the {world.num_processes} processes were"
            self._say(f"{missing} there within {self.patience} s")
        elif world.process_id and not _is_there(world.coordinator_address):
            self._say(f"{first} was lost. {GO_ON}")
        else:  # something else, which jax or the system has told
            self.cancel()
            return
        os._exit(1)

    def _say(self, text: str) -> None:
        with contextlib.suppress(OSError, ValueError):  # whoever reads may have gone, too
            sys.stdout.flush()
            os.write(2, f"Process {world.process_id}: {text}\n".encode())


def _is_there(address: str | None) -> bool:
    host, _, port = (address or "").rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=3).close()
    except OSError:
        return False
    return True
