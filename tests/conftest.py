"""Settings that must be made before jax or keras is first used, the flag `--full`, and the memory of long runs."""

import ctypes
import gc
import os
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any

os.environ["KERAS_BACKEND"] = "jax"
# Most of the time goes into compiling what runs once. Numbers are not the same to the last bit, here and in processes
# that tests start, as those of a user's are not from one processor to the next.
os.environ["XLA_FLAGS"] = " ".join(
    [
        os.environ.get("XLA_FLAGS", ""),
        "--xla_backend_optimization_level=0",
        # Each part that is compiled by itself costs more than what it saves in programs as small as these.
        "--xla_cpu_parallel_codegen_split_count=1",
        # Later versions do not know it, and XLA ends a process for that.
        "--xla_cpu_use_fusion_emitters=false" if version("jaxlib") < "0.12" else "",
    ]
).strip()

import jax
import pytest
import selection

from tests.stress.resident import resident

# Four devices on one processor, for the tests of sharding.
jax.config.update("jax_num_cpu_devices", 4)

MAX_BYTES = 1.4e9
# What clearing leaves may be more than that already, and clearing after every test would compile everything again.
MIN_GROWTH = 0.3e9
cleared_to = [0.0]

count_left_out = pytest.StashKey[int]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--full", action="store_true", help="run the tests marked `full`, and all combinations of `each`")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if any("::" in argument for argument in config.args):
        return
    full = bool(config.getoption("full"))
    if out := selection.left_out(items, full):
        config.hook.pytest_deselected(items=[item for item in items if item in out])
        items[:] = [item for item in items if item not in out]
        config.stash[count_left_out] = 0 if full else len(out)


@pytest.fixture(autouse=True)
def bounded_memory() -> Iterator[None]:
    """What jax has compiled is given back before a process grows too large."""
    yield
    if resident() > max(MAX_BYTES, cleared_to[0] + MIN_GROWTH):
        jax.clear_caches()
        gc.collect()
        if os.name == "posix" and hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
            libc.malloc_trim(0)
        cleared_to[0] = resident()


def pytest_sessionfinish(session: pytest.Session) -> None:
    # Under pytest-xdist the workers collect, and the process that reports hears of it here.
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["left_out"] = session.config.stash.get(count_left_out, 0)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    output = getattr(node, "workeroutput", {})
    node.config.stash[count_left_out] = output.get("left_out", node.config.stash.get(count_left_out, 0))


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    if count := config.stash.get(count_left_out, 0):
        terminalreporter.write_line(f"{count} more tests, of further combinations, run with --full")
