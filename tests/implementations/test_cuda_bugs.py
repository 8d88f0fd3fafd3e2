"""That the tests of the CUDA kernels would find a bug: each of these is planted into their source, and found."""

from typing import NamedTuple

import cuda_kernels
import pytest
from cuda_kernels import BACKWARD, FORWARD, Kernel, KernelError, Kernels, Pass
from cuda_problems import ALL, close, compare

from flax_rnn.implementations.cuda.tiles import Tile

pytestmark = [
    pytest.mark.full,
    pytest.mark.skipif(cuda_kernels.COMPILER is None, reason="there is no C++ compiler"),
]

KERNEL = Kernel("Lstm", "float32", Tile(64, 2, 2), dropped=True)


class Bug(NamedTuple):
    """What the source has, and what it has instead."""

    source: str
    right: str
    wrong: str

    @property
    def which(self) -> Pass:
        return BACKWARD if self.source == "backward.cuh" else FORWARD

    def plant(self, text: str) -> str:
        assert text.count(self.right) == 1, f"{self.source} has changed: plant the bug anew"
        return text.replace(self.right, self.wrong)


AT_START = "  exchange.Open();\n  SyncCluster<S::C>();\n"
AWAIT = "    exchange.Await(step);\n"
BACK_AWAIT = "    exchange.Await(number);\n"
MADE = "      InitCount(counts + i);\n      Expect(counts + i, kBytes);\n"
AWAITED = "AwaitCount(counts + (number & 1), number >> 1 & 1)"
EXPECTED = "      if (!Thread()) Expect(counts + (number & 1), kBytes);\n"
TOLD = "exchange.Tell(chunk, rank, words, number)"
BACK_TOLD = "exchange.Tell(to, tile_of_all / S::kGroups, words, number)"
BUGS = {
    "nothing is awaited": Bug("forward.cuh", AWAIT, ""),
    "nothing is awaited, backward": Bug("backward.cuh", BACK_AWAIT, ""),
    "a barrier of the block in place of what is awaited": Bug("forward.cuh", AWAIT, "SyncBlock();"),
    "a barrier of the block in place of what is awaited, backward": Bug("backward.cuh", BACK_AWAIT, "SyncBlock();"),
    "a barrier of the cluster in place of what is awaited": Bug("forward.cuh", AWAIT, "SyncCluster<S::C>();"),
    "a barrier of the cluster in place of what is awaited, backward": Bug(
        "backward.cuh", BACK_AWAIT, "SyncCluster<S::C>();"
    ),
    "the first is not awaited": Bug("forward.cuh", AWAIT, "if (step) exchange.Await(step);"),
    "the first is not awaited, backward": Bug(
        "backward.cuh", BACK_AWAIT, "if (step + 1 < in.steps) exchange.Await(number);"
    ),
    "every other is awaited": Bug("forward.cuh", AWAIT, "if (~step & 1) exchange.Await(step);"),
    "every other is awaited, backward": Bug("backward.cuh", BACK_AWAIT, "if (~step & 1) exchange.Await(number);"),
    "some threads do not await": Bug("forward.cuh", AWAIT, "if (places.there[0]) exchange.Await(step);"),
    "the last is not awaited, backward": Bug("backward.cuh", BACK_AWAIT, "if (step) exchange.Await(number);"),
    "another number is awaited": Bug("forward.cuh", AWAIT, AWAIT.replace("(step)", "(step + 1)")),
    "another number is awaited, backward": Bug("backward.cuh", BACK_AWAIT, "exchange.Await(step);"),
    "another parity is awaited": Bug("exchange.cuh", AWAITED, AWAITED.replace("number >> 1", "~number >> 1")),
    "always the same parity is awaited": Bug("exchange.cuh", AWAITED, AWAITED.replace("number >> 1 & 1", "0")),
    "another count is awaited": Bug("exchange.cuh", AWAITED, AWAITED.replace("(number & 1)", "(~number & 1)")),
    "one thread awaits": Bug("exchange.cuh", AWAITED, "if (!Thread()) " + AWAITED),
    "one warp awaits": Bug("exchange.cuh", AWAITED, "if (Thread() < 32) " + AWAITED),
    "nothing is expected after the first pass": Bug("exchange.cuh", EXPECTED, ""),
    "all threads expect": Bug("exchange.cuh", EXPECTED, EXPECTED.replace("if (!Thread()) ", "")),
    "too few bytes are expected": Bug("exchange.cuh", EXPECTED, EXPECTED.replace("kBytes", "kBytes - 16")),
    "too few bytes are expected at first": Bug("exchange.cuh", MADE, MADE.replace("kBytes", "kBytes - 16")),
    "too many bytes are expected": Bug("exchange.cuh", EXPECTED, EXPECTED.replace("kBytes", "kBytes + 16")),
    "the bytes of half of the state are expected": Bug("shape.cuh", "kRows * H * sizeof", "kRows / 2 * H * sizeof"),
    "the last is not awaited": Bug("forward.cuh", AWAIT, "if (step + 1 < in.steps) exchange.Await(step);"),
    "no counts": Bug("forward.cuh", AT_START, "  SyncCluster<S::C>();\n"),
    "all threads make the counts": Bug("exchange.cuh", "if (C == 1 || Thread()) return;", "if (C == 1) return;"),
    "one count is made": Bug("exchange.cuh", "i < 2", "i < 1"),
    "no barrier at the start": Bug("forward.cuh", AT_START, "  exchange.Open();\n"),
    "no barrier at the start, backward": Bug("backward.cuh", AT_START, "  exchange.Open();\n"),
    "a barrier of the block at the start": Bug("forward.cuh", AT_START, "  exchange.Open();\n  SyncBlock();\n"),
    "a barrier of the block at the start, backward": Bug(
        "backward.cuh", AT_START, "  exchange.Open();\n  SyncBlock();\n"
    ),
    "counts behind the barrier at the start": Bug(
        "forward.cuh", AT_START, "  SyncCluster<S::C>();\n  exchange.Open();\n"
    ),
    "counts behind the barrier at the start, backward": Bug(
        "backward.cuh", AT_START, "  SyncCluster<S::C>();\n  exchange.Open();\n"
    ),
    "no barrier between warps that share units": Bug("forward.cuh", "      SyncBlock();\n", ""),
    "no barrier ahead of the products, backward": Bug("backward.cuh", "    SyncBlock();\n", ""),
    "one buffer of the state": Bug("forward.cuh", "(~step & 1) * S::kState", "(step & 1) * S::kState"),
    "one buffer of the shares, backward": Bug("backward.cuh", "(number & 1) * S::kShares", "0"),
    "one buffer of the gradients, backward": Bug("backward.cuh", "(number & 1) * S::kGradients", "0"),
    "a wrong rank": Bug("exchange.cuh", TOLD, TOLD.replace("rank", "rank / 2 * 2")),
    "a wrong rank, backward": Bug("backward.cuh", BACK_TOLD, BACK_TOLD.replace("tile_of_all /", "1 - tile_of_all /")),
    "a rank too many": Bug("exchange.cuh", TOLD, TOLD.replace("rank", "rank + 1")),
    "a rank too many, backward": Bug(
        "backward.cuh", BACK_TOLD, BACK_TOLD.replace("tile_of_all /", "1 + tile_of_all /")
    ),
    "a rank too few": Bug("exchange.cuh", "rank < S::C", "rank + 1 < S::C"),
    "a share too few, backward": Bug("backward.cuh", "int rank = 0; rank < S::C", "int rank = 1; rank < S::C"),
    "another block's place among the shares, backward": Bug(
        "backward.cuh", "place.rank * S::kGroups + tile_of_all %", "tile_of_all %"
    ),
    "another count is told": Bug("exchange.cuh", TOLD, TOLD.replace("number", "number + 1")),
    "no mask": Bug("forward.cuh", "if (now.counts[own])", "if (true)"),
    "no mask, backward": Bug("backward.cuh", "if (now.counts[own])", "if (true)"),
    "no resets": Bug("forward.cuh", "if (now.starts_next[own])", "if (false)"),
    "no resets of the first step": Bug("forward.cuh", "h[own] = starts ? 0.0f :", "h[own] ="),
    "no resets of the first state that is shared": Bug(
        "forward.cuh", " && !((in.flags & kResets) && in.resets[first * in.rows + row])", ""
    ),
    "no resets, backward": Bug("backward.cuh", "now.starts[own] ? 0.0f : sum", "sum"),
    "no resets of c, backward": Bug("backward.cuh", "if (now.starts[own]) d_c[own] = 0.0f;", ""),
    "no resets of what is before, backward": Bug("backward.cuh", "now.starts[own] ? 0.0f : before", "before"),
    "another gate's dropout mask": Bug("forward.cuh", "masks.Of(gate, tile, 0)", "masks.Of(gate ^ 1, tile, 0)"),
    "another gate's dropout mask, backward": Bug("backward.cuh", "masks.Of(tile, first + gate", "masks.Of(tile, 0"),
    "a mask of another row": Bug("forward.cuh", "gate * S::kState + own_row", "gate * S::kState + (own_row ^ 1)"),
    "a mask of half of the units": Bug("forward.cuh", "masks.Of(gate, tile, 1)", "masks.Of(gate, tile, 0)"),
    "rows that are not there": Bug("forward.cuh", "    if (!places.there[own]) return;\n", ""),
    "rows that are not there, of the last state": Bug("forward.cuh", "    if (!places.there[own]) continue;\n", ""),
    "rows that are not there, backward": Bug("backward.cuh", "if (places.there[own]) to[", "to["),
    "rows that are not there, of the first state, backward": Bug(
        "backward.cuh", "    if (!places.there[own]) continue;\n", ""
    ),
}


@pytest.mark.parametrize("bug", BUGS.values(), ids=BUGS)
def test_a_bug_is_found(kernels: Kernels, bug: Bug) -> None:
    try:
        found = compare(kernels, KERNEL, bug.which, 5, 13, ALL, {bug.source: bug.plant})
    except KernelError as error:
        assert "error:" not in str(error), error  # of the compiler
    else:
        assert not close(found, KERNEL)


@pytest.mark.parametrize("which", [FORWARD, BACKWARD], ids=["forward", "backward"])
def test_without_one_none_is_found(kernels: Kernels, which: Pass) -> None:
    assert close(compare(kernels, KERNEL, which, 5, 13, ALL), KERNEL)
