"""Settings that must be made before jax or keras is first used, and the flag `--full`."""

import os

os.environ["KERAS_BACKEND"] = "jax"

import jax
import pytest

# Four devices on one processor, for the tests of sharding.
jax.config.update("jax_num_cpu_devices", 4)

left_out = pytest.StashKey[int]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--full", action="store_true", help="run the tests marked `full`, too: all combinations")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    full = [item for item in items if item.get_closest_marker("full")]
    if full and not config.getoption("full"):
        items[:] = [item for item in items if not item.get_closest_marker("full")]
        config.hook.pytest_deselected(items=full)
        config.stash[left_out] = len(full)


def pytest_sessionfinish(session: pytest.Session) -> None:
    # Under pytest-xdist the workers collect, and the process that reports hears of it here.
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["left_out"] = session.config.stash.get(left_out, 0)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node) -> None:
    output = getattr(node, "workeroutput", {})
    node.config.stash[left_out] = output.get("left_out", node.config.stash.get(left_out, 0))


def pytest_terminal_summary(terminalreporter, config: pytest.Config) -> None:
    if count := config.stash.get(left_out, 0):
        terminalreporter.write_line(f"{count} more tests, of further combinations, run with --full")
