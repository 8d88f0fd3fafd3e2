"""Lists of arrays, as ``get_weights()`` of a Keras layer returns them, from and to trees of parameters.

The order is that of cells from the bottom up, forward ahead of backward, and in a cell that of ``ORDERS``. Keras 1 has
an array for each gate instead: 12 for an LSTM, in the order i, c, f, o, and 9 for a GRU.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flax_rnn.cells.protocol import Params
from flax_rnn.convert.cudnn import from_cudnn, is_cudnn, to_cudnn
from flax_rnn.convert.errors import ConversionError, as_array, cell_arrays, check_bias, check_shape

ORDERS = (
    ("kernel", "recurrent_kernel", "bias"),
    ("kernel", "recurrent_kernel"),
    ("kernel", "bias"),
    ("kernel",),
    ("embedding",),
    ("scale", "bias"),
    ("scale", "bias", "mean", "var"),
)
"""The parameters of recurrent cells, of Dense and Conv, of Embed and of normalizations, as Keras orders them."""

_PER_GATE = {4: (0, 2, 1, 3), 3: (0, 1, 2)}  # by number of gates: where each is in a list of Keras 1


def to_keras(params: Params) -> list[np.ndarray]:
    """What ``set_weights`` of a Keras layer takes.

    Args:
      params: the weights of a cell; a tuple of them for a stack; a pair, forward and backward, for a ``Bidirectional``.

    Raises:
      ConversionError: for other trees and shapes.
    """
    if isinstance(params, tuple | list):
        return [array for part in params for array in to_keras(part)]
    arrays = cell_arrays("params", params, is_dense=False)
    if not is_cudnn(arrays):
        check_bias("params", arrays)
    return list(arrays.values())


def from_keras(cell: Any, weights: Sequence[Any], *, cudnn: bool = False) -> Params:
    """The weights of ``cell`` from what ``get_weights()`` of the Keras layer returns.

    Args:
      cell: a cell of ``flax_rnn``, maybe a ``StackedRNNCells``; for a ``Bidirectional`` a pair of them.
      weights: the list of arrays; that of Keras 1, with an array per gate, will do too.
      cudnn: whether to convert those of a ``CuDNNLSTM`` or ``CuDNNGRU`` for an LSTM or a GRU, and the other way round.

    Returns:
      A dict for a cell, a tuple of dicts for a stack, a pair for a pair.

    Raises:
      ConversionError: for other numbers or shapes of arrays than those of ``cell``.
    """
    arrays = [as_array(f"weights[{index}]", array) for index, array in enumerate(weights)]
    if not arrays or arrays[0].ndim < 2:
        raise ConversionError(f"weights: expected arrays, the first a kernel (*K, D, g H), got {_shapes(arrays)}")
    tree = _specs(cell, arrays[0].shape[-2])
    nodes = jax.tree.leaves(tree, is_leaf=_is_node)
    filled = iter(assign("weights", arrays, nodes, cudnn))
    return jax.tree.map(lambda node: next(filled), tree, is_leaf=_is_node)


def nodes_in(where: str, tree: Mapping[str, Any]) -> list[tuple[tuple[str, ...], Mapping[str, Any]]]:
    """The parameters of each cell in those of a layer, in Keras' order, with their paths; or those of the layer itself.

    Raises:
      ConversionError: for parameters of layers that are not known here.
    """
    names = {*tree}
    if names == {"forward_layer", "backward_layer"}:
        inner = ["forward_layer", "backward_layer"]
    elif names in ({"cell"}, {"cells"}):
        inner = [*names]
    elif numbered(tree):
        inner = numbered(tree)
    elif any(names == {*order} for order in ORDERS) and not any(isinstance(leaf, Mapping) for leaf in tree.values()):
        return [((), tree)]
    else:
        raise ConversionError(f"{where}: expected the parameters of a layer known here, got entries {sorted(names)}")
    return [
        ((name, *path), node)
        for name in inner
        for path, node in nodes_in(f"{where}/{name}", tree[name] if isinstance(tree[name], Mapping) else {})
    ]


def numbered(tree: Mapping[str, Any]) -> list[str]:
    """The names of the cells of a stack, ``cells_0`` in linen and ``0`` in nnx; none where there are others."""
    if not all(re.fullmatch(r"(cells_)?\d+", name) for name in tree):
        return []
    return sorted(tree, key=lambda name: int(name.rpartition("_")[2]))


def assign(
    where: str, arrays: Sequence[np.ndarray], nodes: Sequence[Mapping[str, Any]], cudnn: bool = False
) -> list[dict[str, np.ndarray]]:
    """``arrays`` under the names, and of the shapes, that ``nodes`` have.

    Args:
      where: of errors.
      arrays: those of all ``nodes``, one after the other.
      nodes: the parameters of each cell, or of a layer without cells: arrays, or shapes of them.
      cudnn: as in ``from_keras``.

    Raises:
      ConversionError: for other numbers or shapes of arrays.
    """
    rest = iter(arrays)
    orders = [ordered(node) for node in nodes]
    if sum(map(len, orders)) == len(arrays):
        parts = [{name: next(rest) for name in order} for order in orders]
    elif sum(3 * _gates(node) for node in nodes) == len(arrays):
        parts = [_fuse(where, [next(rest) for _ in range(3 * _gates(node))]) for node in nodes]
    else:
        pairs = zip(nodes, orders, strict=True)
        expected = [f"{name} {tuple(node[name].shape)}" for node, order in pairs for name in order]
        raise ConversionError(f"{where}: expected {len(expected)} arrays {expected}, got {_shapes(arrays)}")
    return [_fit(where, part, node, cudnn) for part, node in zip(parts, nodes, strict=True)]


def ordered(node: Mapping[str, Any]) -> tuple[str, ...]:
    """The names in the parameters of a cell or a layer, in Keras' order."""
    return next(order for order in ORDERS if {*order} == {*node})


def _fit(where: str, arrays: dict[str, np.ndarray], node: Mapping[str, Any], cudnn: bool) -> dict[str, np.ndarray]:
    if {*arrays} != {*node}:  # those of Keras 1, which always has biases
        raise ConversionError(f"{where}: expected {[*ordered(node)]}, got {[*arrays]}")
    if "recurrent_kernel" in arrays and is_cudnn(arrays) != is_cudnn(node):
        if not cudnn:
            raise ConversionError(
                f"{where}: bias: expected shape {tuple(node['bias'].shape)}, got {arrays['bias'].shape}, one of them "
                "of a CuDNN layer; pass cudnn=True to convert it"
            )
        try:
            arrays = to_cudnn(arrays) if is_cudnn(node) else from_cudnn(arrays)
        except ConversionError as error:
            raise ConversionError(f"{where}: {error}") from error
    for name, array in arrays.items():
        check_shape(f"{where}: {name}", array, node[name].shape)
    return arrays


def _fuse(where: str, arrays: list[np.ndarray]) -> dict[str, np.ndarray]:
    """Keras 1's list of kernel, recurrent kernel and bias of each gate, as one of each."""
    gates = [arrays[i : i + 3] for i in range(0, len(arrays), 3)]
    for array, like in zip(arrays, len(gates) * gates[0], strict=True):
        check_shape(f"{where}: an array per gate", array, like.shape)
    columns = zip(*(gates[index] for index in _PER_GATE[len(gates)]), strict=True)
    return dict(zip(ORDERS[0], (np.concatenate(blocks, -1) for blocks in columns), strict=True))


def _gates(node: Mapping[str, Any]) -> int:
    """The number of gates of an LSTM or a GRU, else 0."""
    if "recurrent_kernel" not in node:
        return 0
    *_, units, columns = node["recurrent_kernel"].shape
    return columns // units if columns // units in _PER_GATE else 0


def _specs(cell: Any, features: int) -> Any:
    """The tree of the weights of ``cell``, with shapes for arrays."""
    if isinstance(cell, tuple | list):
        return tuple(_specs(part, features) for part in cell)
    if hasattr(cell, "cells"):
        sizes = cell.input_sizes(features)
        return tuple(_specs(part, size) for part, size in zip(cell.cells, sizes, strict=True))
    if not hasattr(cell, "param_specs"):
        raise ConversionError(f"cell: expected a cell of flax_rnn, a stack or a pair of them, got {cell!r}")
    specs = cell.param_specs(features).items()
    return {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, (_, shape) in specs}


def _is_node(tree: Any) -> bool:
    return isinstance(tree, dict)


def _shapes(arrays: Sequence[np.ndarray]) -> str:
    return f"{len(arrays)} of shapes {[array.shape for array in arrays]}"
