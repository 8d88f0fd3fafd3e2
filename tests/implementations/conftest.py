"""The CUDA kernels on a CPU, for the tests that run them."""

import os
from collections.abc import Iterator

import pytest
from cuda_kernels import Kernel, Kernels


@pytest.fixture(scope="module")
def kernels(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernels]:
    """While the first tests of a file run, what the others need is being compiled, several at once."""
    folder = tmp_path_factory.getbasetemp()
    made = Kernels((folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder) / "cuda_kernels")
    for item in request.session.items:
        if item.path == request.path and isinstance(item, pytest.Function) and hasattr(item, "callspec"):
            values = [getattr(value, "kernel", value) for value in item.callspec.params.values()]
            made.prepare(value for value in values if isinstance(value, Kernel))
    yield made
    made.close()
