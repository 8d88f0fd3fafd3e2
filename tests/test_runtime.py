"""Compiler options that jax takes, and memory that stays with the process."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flax_rnn
from flax_rnn import runtime

FAULTS = """
import resource, sys
import jax, jax.numpy as jnp
from flax_rnn import runtime

if sys.argv[1] == "keep" and not runtime.keep_memory():
    sys.exit(3)
function = jax.jit(lambda x: jnp.sin(x) + 1)
x = jnp.ones(16_000_000)
for _ in range(20):
    function(x).block_until_ready()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    function(x).block_until_ready()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.full
def test_memory_that_is_kept_is_not_fetched_again() -> None:
    runs = [
        subprocess.run([sys.executable, "-c", FAULTS, how], capture_output=True, text=True, timeout=120)
        for how in ("leave", "keep")
    ]
    if runs[1].returncode == 3:
        pytest.skip("the C library has no mallopt")
    left, kept = (int(run.stdout) for run in runs)
    # 64 MB a call are 16,000 pages; smaller blocks are kept anyway once glibc has seen one of their size freed.
    assert left > 10_000 and kept < left / 2


def test_options_for_cpus_are_taken_and_change_no_numbers() -> None:
    cell = flax_rnn.GRUCell(16)
    params = cell.init_params(jax.random.key(0), 8)
    x = jax.random.normal(jax.random.key(1), (2, 5, 8))
    plain = jax.jit(lambda x: flax_rnn.rnn(cell, params, x))(x)
    tuned = jax.jit(lambda x: flax_rnn.rnn(cell, params, x), compiler_options=runtime.compiler_options("cpu"))(x)
    np.testing.assert_allclose(tuned, plain, atol=1e-6)


def test_options_for_gpus_are_known_to_xla() -> None:
    options = runtime.compiler_options("gpu")
    assert options == runtime.compiler_options("cuda") and "WHILE" in options["xla_gpu_enable_command_buffer"]
    lowered = jax.jit(lambda x: x + 1).lower(jnp.ones(2))
    np.testing.assert_array_equal(lowered.compile(compiler_options=options)(jnp.ones(2)), [2, 2])
    with pytest.raises(Exception, match="xla_gpu_enable_command_buffers"):
        lowered.compile(compiler_options={"xla_gpu_enable_command_buffers": "WHILE"})


def test_platforms() -> None:
    assert runtime.compiler_options() == runtime.compiler_options(jax.default_backend())
    assert runtime.compiler_options("tpu") == {}
