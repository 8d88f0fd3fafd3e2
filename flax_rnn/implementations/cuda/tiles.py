"""How a layer is divided among the processors of a GPU, by its number of units and the numbers that products take.

Eight rows of the batch are a tile. A cluster of blocks goes over all steps of a tile; it has the recurrent weights in
its registers, each block those of its own units. ``src/shape.cuh`` has the same sizes, and tells the compiler to refuse
a kernel whose shared memory is not as large as it is here.
"""

from typing import NamedTuple

ROWS = 8
"""Of a tile."""


class Tile(NamedTuple):
    """How a cluster is made.

    Attributes:
      units: of the layer, with zeros for those that it does not have.
      cluster: how many blocks share them.
      split: how many warps share 16 of them, 1, 2 or 4.
    """

    units: int
    cluster: int
    split: int

    @property
    def threads(self) -> int:
        """Of a block."""
        return self.units // self.cluster // 16 * self.split * 32

    def blocks(self, rows: int) -> int:
        """Of all clusters, for so many rows."""
        return -(-rows // ROWS) * self.cluster

    def shared_bytes(self, gates: int, dropped: bool, backward: bool, per_word: int) -> int:
        """Shared memory of a block; ``per_word`` is how many elements there are in 4 bytes."""
        own, groups = self.units // self.cluster, self.units // self.cluster // 16
        counts = 4 if self.cluster > 1 else 0
        if backward:
            gradients = ROWS * (gates * own // per_word + 4)
            shares = self.cluster * groups * 32 * 4
            masks = self.units // 16 * gates * 32 * 4 // per_word if dropped else 0
            return 4 * (2 * gradients + 2 * shares + masks + counts)
        state = ROWS * (self.units // per_word + 4)
        masks = gates * state if dropped else 0
        parts = groups * self.split * gates * 4 * 32 if self.split > 1 else 0
        return 4 * (2 * state + masks + parts + counts)


TILES: dict[str, tuple[Tile, ...]] = {
    "bfloat16": (
        Tile(64, 4, 4), Tile(64, 2, 2), Tile(64, 1, 1),
        Tile(128, 8, 4), Tile(128, 4, 2), Tile(128, 2, 2), Tile(128, 1, 1),
        Tile(256, 16, 4), Tile(256, 8, 4), Tile(256, 4, 4),
        Tile(384, 8, 4), Tile(512, 16, 4),
    ),
    "float32": (
        Tile(64, 4, 4), Tile(64, 2, 2), Tile(64, 1, 1),
        Tile(128, 8, 4), Tile(128, 4, 4), Tile(128, 2, 2),
        Tile(256, 16, 4), Tile(256, 8, 4),
    ),
}  # fmt: skip
"""By dtype, the smallest first, and of a number of units the fastest for few rows. In float32 products are of TF32, and
the weights take twice as many registers."""

RESIDENT = {1: 132, 2: 66, 4: 30, 8: 15, 16: 7}
"""How many clusters an H200 runs at once, by the number of their blocks; the others wait for them to end."""


def tile(dtype: str, units: int, rows: int, clusters: bool) -> Tile | str:
    """The one for so many units and rows; or why there is none, in words.

    Args:
      dtype: ``"bfloat16"`` or ``"float32"``.
      units: of the layer.
      rows: of the batch.
      clusters: whether the GPU has clusters.
    """
    found = [one for one in TILES[dtype] if clusters or one.cluster == 1]
    enough = [one for one in found if one.units >= units]
    if not enough:
        kind = "" if clusters else " without clusters of blocks"
        return f"the registers of a GPU{kind} hold the weights of {found[-1].units} units in {dtype}, not of {units}"
    fitting = [one for one in enough if one.units == enough[0].units]
    at_once = (one for one in fitting if one.blocks(rows) <= RESIDENT[one.cluster] * one.cluster)
    return next(at_once, fitting[-1])
