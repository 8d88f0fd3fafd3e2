"""How a layer is divided among the processors of a GPU, and that each of them has room for it."""

from itertools import pairwise, product

import pytest

from flax_rnn.implementations.cuda.tiles import TILES, Tile, tile

# Bytes of shared memory that a block may have, by NVIDIA's programming guide. GPUs without clusters: of 8.6 and 8.9,
# since those of 8.0 have more; with clusters: of 9.0 and 10.0.
SHARED = {False: 99 << 10, True: 227 << 10}


@pytest.mark.parametrize("dtype", TILES)
def test_a_block_has_room(dtype: str) -> None:
    per_word = 2 if dtype == "bfloat16" else 1
    for one, gates, dropped, backward in product(TILES[dtype], (1, 3, 4), (False, True), (False, True)):
        assert one.shared_bytes(gates, dropped, backward, per_word) <= SHARED[one.cluster > 1], one
        assert one.threads <= 1024 and one.cluster in (1, 2, 4, 8, 16), one


def test_no_more_units_than_it_takes() -> None:
    """Of which there may be several tiles, and which of them it is depends on the rows."""
    for dtype, clusters, rows in product(TILES, (False, True), (1, 100, 10000)):
        sizes = sorted({one.units for one in TILES[dtype] if clusters or one.cluster == 1})
        for before, units in pairwise([0, *sizes]):
            for some in (before + 1, units):
                found = tile(dtype, some, rows, clusters)
                assert isinstance(found, Tile) and found.units == units and (clusters or found.cluster == 1)


def test_why_there_is_none() -> None:
    for clusters, kind in ((True, "a GPU"), (False, "a GPU without clusters of blocks")):
        units = max(one.units for one in TILES["bfloat16"] if clusters or one.cluster == 1)
        assert tile("bfloat16", units + 1, 8, clusters) == (
            f"the registers of {kind} hold the weights of {units} units in bfloat16, not of {units + 1}"
        )
