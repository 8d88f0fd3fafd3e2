"""The emulator of what the CUDA kernels need of a GPU: what it computes, and that it says what a GPU would not."""

import ctypes
from pathlib import Path

import cuda_kernels
import ml_dtypes
import numpy as np
import pytest
from cuda_kernels import FORWARD, Array, Kernel, KernelError, Kernels, launch

from flax_rnn.implementations.cuda.tiles import Tile

pytestmark = pytest.mark.skipif(cuda_kernels.COMPILER is None, reason="there is no C++ compiler")

# Kernels of two warps, in clusters of 2, one for each number `which`. What a thread reads and writes has 8 words.
# Behind the 4 words that each has in shared memory are two counts.
SOURCE = """
#include "device.cuh"
namespace flax_rnn {
template <class E> FLAX_RNN_DEVICE void MultiplyAll(const u32* in, float* out) {
  const u32 a[4] = {in[0], in[1], in[2], in[3]}, b[2] = {in[4], in[5]};
  float sums[4] = {1, 2, 3, 4};
  Multiply(sums, a, b, E());
  for (int r = 0; r < 4; r++) out[r] = sums[r];
}
FLAX_RNN_KERNEL(64) example(const u32* in, u32* out, int which) {
  const int thread = Thread(), rank = Rank<2>(), other = 1 - rank, all = (Tile<2>() * 2 + rank) * 64 + thread;
  u32* const shared = SharedMemory();
  u64* const counts = reinterpret_cast<u64*>(shared + 256);
  const bool first = thread == 0;
  in += all * 8, out += all * 8;
  if (which >= 30) {
    if (first) InitCount(counts);
    if (first && which >= 40) Expect(counts, 32 * 16);
    SyncCluster<2>();
  }
  switch (which) {
    case 0: return MultiplyAll<u16>(in, reinterpret_cast<float*>(out));
    case 1: return MultiplyAll<float>(in, reinterpret_cast<float*>(out));
    case 2: for (int i = 0; i < 5; i++) out[i] = ShuffleXor(in[0], 1 << i); return;
    case 3: out[0] = shared[thread]; return;
    case 4:
      if (first) InitCount(counts), InitCount(counts + 1), Expect(counts, 1024), Expect(counts + 1, 1024);
      SyncCluster<2>();
      for (int i = 0; i < 5; i++) {
        Send<2>(shared + thread * 4, other, {{in[i], in[i + 1], in[i + 2], in[i + 3]}}, counts + i % 2);
        AwaitCount(counts + i % 2, i / 2 % 2);
        if (first) Expect(counts + i % 2, 1024);
        out[i] = shared[(thread + 1) % 64 * 4 + i % 4];
        SyncCluster<2>();
      }
      return;
    case 5:  // how far the other warp is, which nobody waits for
      shared[thread / 32] = 0, SyncBlock();
      for (int i = 0; i < 8; i++) ShuffleXor(0, 1), shared[thread / 32] = i + 1, out[i] = shared[1 - thread / 32];
      return;
    case 10: if (first) SyncBlock(); else ShuffleXor(0, 1); return;
    case 11: if (!first) SyncBlock(); return;
    case 12: if (thread < 32) SyncBlock(); return;
    case 13: if (thread < 32) SyncBlock(); else SyncCluster<2>(); return;
    case 14: if (rank == 0) SyncCluster<2>(); return;
    case 20: shared[260] = 1; return;
    case 21: SyncCluster<1>(); return;
    case 22: if (first) InitCount(counts); Send<2>(shared, other, {}, counts); return;
    case 23: SyncCluster<2>(); Send<2>(shared, rank, {}, counts); return;
    case 24: SyncCluster<2>(); Expect(counts, 16); return;
    case 25: SyncCluster<2>(); AwaitCount(counts, 0); return;
    case 26: InitCount(counts + 2); return;
    case 30: InitCount(counts); return;
    case 31: AwaitCount(counts, 0); return;
    case 32: AwaitCount(counts, 1); return;
    case 33: Send<2>(shared, rank, {}, counts); return;
    case 34: Expect(counts, 16); return;
    case 40: Send<2>(shared + 260, rank, {}, counts); return;
    case 41: Send<2>(shared + 1, rank, {}, counts); return;
    case 42: Send<2>(out, rank, {}, counts); return;
    case 43: Send<2>(shared, 2, {}, counts); return;
    case 44: Send<2>(shared, rank, {}, reinterpret_cast<u64*>(out)); return;
    case 45: Send<1>(shared, rank, {}, counts); return;
    case 46: if (thread < 31) Send<2>(shared, other, {}, counts); return;
    case 47: if (thread < 31) Send<2>(shared, rank, {}, counts); AwaitCount(counts, 0); return;
    case 48: if (thread < 32) Send<2>(shared, rank, {}, counts); AwaitCount(counts, 0); return;
    case 49: if (rank) AwaitCount(counts, 0); else SyncCluster<2>(); return;
    case 53: Send<2>(shared - 4, rank, {}, counts); return;
    case 54: Send<2>(shared, -1, {}, counts); return;
    case 50:  // one waits for bytes, all others for him
      if (rank == 1 && first) AwaitCount(counts, 0);
      ShuffleXor(0, 1), SyncBlock();
      if (rank == 0 && thread < 32) Send<2>(shared + thread * 4, other, {{in[0], in[1], in[2], in[3]}}, counts);
      SyncCluster<2>();
      for (int i = 0; i < 4; i++) out[i] = shared[thread * 4 + i];
      return;
    case 51: case 52:  // all that are expected, and all but one
      shared[thread * 4] = 0, SyncCluster<2>();
      if (thread < 32 && (thread || which == 51)) Send<2>(shared + thread * 4, rank, {{1}}, counts);
      SyncCluster<2>();
      out[0] = shared[thread * 4];
      return;
  }
}
FLAX_RNN_EXPORT(example)
}  // namespace flax_rnn
"""
THREADS = 2 * 2 * 64  # in 2 clusters of 2 blocks
BYTES = 64 * 16 + 2 * 8


@pytest.fixture(scope="module")
def library(kernels: Kernels) -> Path:
    return kernels.library(Kernel("Lstm", "float32", Tile(64, 2, 1)), FORWARD, {"kernel.cu": lambda _: SOURCE})


def run(
    library: Path, which: int, words: Array | None = None, cluster: int = 2, block: int = 64, shared: int = BYTES
) -> Array:
    taken = np.zeros((THREADS, 8), np.uint32) if words is None else np.ascontiguousarray(words, np.uint32)
    given = np.zeros((THREADS, 8), np.uint32)
    pointers = [ctypes.c_void_p(array.ctypes.data) for array in (taken, given)]
    launch(library, "example", [*pointers, ctypes.c_int(which)], 4, cluster, block, shared)
    return given


# The number of a lane's element in a fragment, as the PTX ISA has it: group is lane / 4, place is lane % 4.
FRAGMENTS = {
    "bfloat16": (
        [(g + 8 * (i // 2 % 2), 2 * p + i % 2 + 8 * (i // 4)) for g in range(8) for p in range(4) for i in range(8)],
        [(2 * p + i % 2 + 8 * (i // 2), g) for g in range(8) for p in range(4) for i in range(4)],
    ),
    "float32": (
        [(g + 8 * (i % 2), p + 4 * (i // 2)) for g in range(8) for p in range(4) for i in range(4)],
        [(p + 4 * i, g) for g in range(8) for p in range(4) for i in range(2)],
    ),
}
SUMS = [(g + 8 * (i // 2), 2 * p + i % 2) for g in range(8) for p in range(4) for i in range(4)]


@pytest.mark.parametrize(("which", "element"), [*enumerate(FRAGMENTS)])
def test_products(library: Path, which: int, element: str) -> None:
    rng = np.random.default_rng(0)
    dtype = ml_dtypes.bfloat16 if element == "bfloat16" else np.float32
    depth = 16 if element == "bfloat16" else 8
    a, b = (rng.normal(size=(THREADS // 32, *shape)).astype(dtype) for shape in ((16, depth), (depth, 8)))
    fragments = [
        np.stack([factor[:, row, column] for row, column in places], 1).reshape(THREADS, -1).view(np.uint32)
        for factor, places in zip((a, b), FRAGMENTS[element], strict=True)
    ]
    if element == "float32":  # the digits that TF32 does not have
        a, b = ((factor.view(np.uint32) & 0xFFFFE000).view(np.float32) for factor in (a, b))
    given = run(library, which, np.pad(np.concatenate(fragments, 1), ((0, 0), (0, 2))))
    sums = given[:, :4].copy().view(np.float32).reshape(THREADS // 32, 32, 4) - np.array([1, 2, 3, 4])
    expected = a.astype(np.float64) @ b.astype(np.float64)
    found = np.zeros_like(expected)
    for number, (row, column) in enumerate(SUMS):
        found[:, row, column] = sums[:, number // 4, number % 4]
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_shuffles(library: Path) -> None:
    numbers = np.random.default_rng(0).integers(0, 2**32, (THREADS, 8), np.uint32)
    given = run(library, 2, numbers)
    for bit in range(5):
        np.testing.assert_array_equal(given[:, bit], numbers[np.arange(THREADS) ^ 1 << bit, 0])


def test_shared_memory_is_nan_at_first(library: Path) -> None:
    words = run(library, 3)[:, 0].copy()
    assert np.isnan(words.view(np.float32)).all()
    assert np.isnan(words.view(ml_dtypes.bfloat16).astype(np.float32)).all()


def test_blocks_exchange_bytes(library: Path) -> None:
    numbers = np.random.default_rng(0).integers(0, 2**32, (THREADS, 8), np.uint32)
    given = run(library, 4, numbers).reshape(2, 2, 64, 8)
    sent = np.roll(numbers.reshape(2, 2, 64, 8)[:, ::-1], -1, 2)
    for number in range(5):
        np.testing.assert_array_equal(given[..., number], sent[..., number + number % 4])


def test_a_count_of_another_parity_is_not_waited_for(library: Path) -> None:
    run(library, 32)


def test_a_count_ends_with_the_bytes_that_are_expected(library: Path) -> None:
    run(library, 48)
    with pytest.raises(KernelError, match="bytes that nobody sends"):
        run(library, 47)


def test_others_wait_for_one_who_waits_for_bytes(library: Path) -> None:
    numbers = np.random.default_rng(0).integers(0, 2**32, (THREADS, 8), np.uint32)
    given = run(library, 50, numbers).reshape(2, 2, 64, 8)
    np.testing.assert_array_equal(given[:, 1, :32, :4], numbers.reshape(2, 2, 64, 8)[:, 0, :32, :4])


def test_what_is_not_awaited_may_be_late(library: Path) -> None:
    assert (run(library, 51).reshape(4, 64, 8)[:, :32, 0] == 1).all()
    late = run(library, 52).reshape(4, 64, 8)[:, 1:32, 0]
    assert {*late.flat} == {0, 1}


def test_one_runs_ahead_of_another_that_it_does_not_wait_for(library: Path) -> None:
    for two in run(library, 5).reshape(4, 2, -1):
        assert sorted([*map(int, {*one})] for one in two) == [[0], [8]]


ERRORS = {
    10: "some threads of a warp wait for .*(shuffle|barrier of the block)",
    11: "some threads of a warp wait for .*nothing",
    12: "some warps of a block wait for .*nothing",
    13: "some warps of a block wait for .*barrier of the cluster",
    14: "some blocks of a cluster wait for .*nothing",
    20: "behind the end of the shared memory",
    21: "another size of cluster",
    22: "a block that has not begun",
    23: "a count of bytes that was not made",
    24: "a count of bytes that was not made",
    25: "a count of bytes that was not made",
    26: "aligned bytes within the shared memory",
    30: "a count of bytes is made twice",
    31: "bytes that nobody sends",
    33: "bytes come that are not expected",
    34: "bytes are expected while others are to come",
    40: "aligned bytes within the shared memory",
    41: "aligned bytes within the shared memory",
    42: "aligned bytes within the shared memory",
    43: "a block that the cluster does not have",
    44: "aligned bytes within the shared memory",
    45: "another size of cluster",
    46: "a block that has ended",
    47: "bytes that nobody sends",
    49: "bytes that nobody sends",
    53: "aligned bytes within the shared memory",
    54: "a block that the cluster does not have",
}


@pytest.mark.parametrize("which", ERRORS)
def test_it_says_what_is_wrong(library: Path, which: int) -> None:
    with pytest.raises(KernelError, match=ERRORS[which]):
        run(library, which)
    run(library, 3)  # and goes on


@pytest.mark.parametrize(
    ("cluster", "block", "shared", "message"),
    [
        (3, 64, BYTES, "whole clusters"),
        (1, 64, BYTES, "another size of cluster"),
        (2, 48, BYTES, "whole warps"),
        (2, 96, BYTES, "more threads than the kernel was compiled for"),
        (2, 64, 228 << 10, "more shared memory"),
    ],
)
def test_sizes_that_it_refuses(library: Path, cluster: int, block: int, shared: int, message: str) -> None:
    with pytest.raises(KernelError, match=message):
        run(library, 3, None, cluster, block, shared)
