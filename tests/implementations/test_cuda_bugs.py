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

KERNEL = Kernel("Lstm", "float32", Tile(128, 2, 2), dropped=True)


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


AT_START = "\n  SyncCluster<S::C>();\n"
AT_END_OF_STEP = "\n    SyncCluster<S::C>();\n"
STATES = "states + (step & 1) * S::kState;\n    u32* const after = states + (~step & 1) * S::kState;"
TOLD = "if (rank < S::C) StoreRemote<S::C>(chunk, rank, words)"
BACK_TOLD = "StoreRemote<S::C>(to, number / S::kGroups, words)"
BUGS = {
    "no barrier in the loop": Bug("forward.cuh", AT_END_OF_STEP, "\n"),
    "no barrier in the loop, backward": Bug("backward.cuh", AT_END_OF_STEP, "\n"),
    "a barrier of the block in the loop": Bug("forward.cuh", AT_END_OF_STEP, "SyncBlock();"),
    "a barrier of the block in the loop, backward": Bug("backward.cuh", AT_END_OF_STEP, "SyncBlock();"),
    "no barrier of the first step": Bug("forward.cuh", AT_END_OF_STEP, "if (step) SyncCluster<S::C>();"),
    "no barrier of the first step, backward": Bug(
        "backward.cuh", AT_END_OF_STEP, "if (step + 1 < in.steps) SyncCluster<S::C>();"
    ),
    "no last barrier": Bug("forward.cuh", AT_END_OF_STEP, "if (step + 1 < in.steps) SyncCluster<S::C>();"),
    "no last barrier, backward": Bug("backward.cuh", AT_END_OF_STEP, "if (step) SyncCluster<S::C>();"),
    "a barrier of every other step": Bug("forward.cuh", AT_END_OF_STEP, "if (~step & 1) SyncCluster<S::C>();"),
    "a barrier of every other step, backward": Bug(
        "backward.cuh", AT_END_OF_STEP, "if (~step & 1) SyncCluster<S::C>();"
    ),
    "a barrier that some threads do not come to": Bug(
        "forward.cuh", AT_END_OF_STEP, "if (places.there[0]) SyncCluster<S::C>();"
    ),
    "a barrier that some threads do not come to, backward": Bug(
        "backward.cuh", AT_END_OF_STEP, "if (places.there[0]) SyncCluster<S::C>();"
    ),
    "no barrier at the start": Bug("forward.cuh", AT_START, "\n"),
    "no barrier at the start, backward": Bug("backward.cuh", AT_START, "\n"),
    "a barrier of the block at the start": Bug("forward.cuh", AT_START, "SyncBlock();"),
    "a barrier of the block at the start, backward": Bug("backward.cuh", AT_START, "SyncBlock();"),
    "no barrier between warps that share units": Bug("forward.cuh", "      SyncBlock();\n", ""),
    "no barrier ahead of the products, backward": Bug("backward.cuh", "    SyncBlock();\n", ""),
    "one buffer of the state": Bug("forward.cuh", STATES, "states;\n    u32* const after = states;"),
    "one buffer of the shares, backward": Bug("backward.cuh", "(step & 1) * S::kShares", "0"),
    "a wrong rank": Bug("exchange.cuh", TOLD, TOLD.replace("(chunk, rank", "(chunk, rank / 2 * 2")),
    "a wrong rank, backward": Bug("backward.cuh", BACK_TOLD, BACK_TOLD.replace("number /", "1 - number /")),
    "a rank too many": Bug("exchange.cuh", TOLD, TOLD.replace("if (rank < S::C) ", "")),
    "a rank too many, backward": Bug("backward.cuh", BACK_TOLD, BACK_TOLD.replace("number /", "1 + number /")),
    "a rank too few": Bug("exchange.cuh", TOLD, TOLD.replace("rank < S::C", "rank + 1 < S::C")),
    "a share too few, backward": Bug("backward.cuh", "int rank = 0; rank < S::C", "int rank = 1; rank < S::C"),
    "another block's place among the shares, backward": Bug(
        "backward.cuh", "place.rank * S::kGroups + number %", "number %"
    ),
    "no mask": Bug("forward.cuh", "if (now.counts[own])", "if (true)"),
    "no mask, backward": Bug("backward.cuh", "if (now.counts[own])", "if (true)"),
    "no resets": Bug("forward.cuh", "if (now.starts_next[own])", "if (false)"),
    "no resets of the first step": Bug("forward.cuh", "h[own] = starts ? 0.0f :", "h[own] ="),
    "no resets of the first state that is shared": Bug(
        "forward.cuh", " && !((in.flags & kResets) && in.resets[first * in.rows + row])", ""
    ),
    "no resets, backward": Bug("backward.cuh", "now.starts[own] ? 0.0f : sum", "sum"),
    "no resets of c, backward": Bug("backward.cuh", "if (now.starts[own]) d_c[own] = 0.0f;", ""),
    "no resets of what is before, backward": Bug("backward.cuh", "now.starts[own] ? 0.0f : now.before", "now.before"),
    "another gate's dropout mask": Bug("forward.cuh", "h[own] * dropped[copy]", "h[own] * dropped[copy ^ 1]"),
    "another gate's dropout mask, backward": Bug("backward.cuh", "masks.Of(tile, gate, r)", "masks.Of(tile, 0, r)"),
    "no dropout in the first state": Bug("forward.cuh", "if (S::kDropped && there) h *=", "if (false) h *="),
    "rows that are not there": Bug("forward.cuh", "      if (places.there[own]) {\n", "      {\n"),
    "rows that are not there, of the last state": Bug("forward.cuh", "    if (!places.there[own]) continue;\n", ""),
    "rows that are not there, backward": Bug("backward.cuh", "      if (places.there[own]) {\n", "      {\n"),
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
