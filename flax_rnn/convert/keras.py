"""Whole models from the files of Keras."""

import os
from typing import Any

import numpy as np

from flax_rnn.convert import files
from flax_rnn.convert.errors import ConversionError, as_array
from flax_rnn.convert.hdf5 import MAX_BYTES
from flax_rnn.convert.lists import assign, nodes_in
from flax_rnn.convert.targets import Names, Path, Target, places_of


def load(
    path: str | os.PathLike[str],
    target: Any,
    names: Names | None = None,
    *,
    strict: bool = True,
    cudnn: bool = False,
    config: str | None = None,
    max_bytes: int = MAX_BYTES,
) -> Any:
    """Reads the weights of a saved Keras model into a Flax model.

    Layers may be recurrent, also ``Bidirectional`` and stacks, or ``Dense``, ``Conv``, ``Embedding``,
    ``LayerNormalization`` and such, or one of these in a ``TimeDistributed``. Only weights are read: options, such as
    activations, the mask of an embedding or the ``epsilon`` of a normalization, are for the Flax model to have.

    Args:
      path: of a ``.keras``, ``.weights.h5`` or legacy ``.h5`` file; see ``read``.
      target: the ``params`` of a linen model, arrays or shapes of them; or an ``nnx.Module``, which is changed.
      names: where the parameters of a layer are in the model, as ``{"dense_1": "head/output"}``, with slashes between
        names and for entries of lists their numbers. A name of a nested model stands for those of all its layers.
        Where the cells of a stack are in several places, as those that linen names itself, it is a list of them, from
        the bottom up. What is not listed has the same name in both.
      strict: whether every layer with weights has to be used, and every parameter of ``target`` to be filled.
      cudnn: whether to convert layers that are a ``CuDNNLSTM`` or ``CuDNNGRU`` in the file, and not in ``target``, or
        the other way round.
      config, max_bytes: as in ``read``.

    Returns:
      New ``params``, as plain dicts, or the changed ``target``; in the dtypes that were there.

    Raises:
      ConversionError: where names, numbers or shapes of arrays do not fit, and as in ``read``. An ``nnx.Module`` is
        then as it was.
    """
    layers = files.read(path, config=config, max_bytes=max_bytes)
    model = Target(target)
    places = places_of(layers, names or {})
    found: dict[Path, np.ndarray] = {}
    unused = []
    for name, layer in layers.items():
        found_at = [(place, model.find(place)) for place in places[name]]
        if absent := ["/".join(place) for place, tree in found_at if tree is None]:
            unused.append(f"{name} (at {', '.join(absent)})")
            continue
        where = f"{os.fspath(path)}: layer {name!r}"
        nodes = {
            (*place, *inner): node
            for place, tree in found_at
            for inner, node in nodes_in(f"target: {'/'.join(place)}", tree or {})
        }
        arrays = [as_array(where, array) for array in layer.arrays]
        for at, part in zip(nodes, assign(where, arrays, [*nodes.values()], cudnn), strict=True):
            for key, array in part.items():
                if (*at, key) in found:
                    raise ConversionError(f"{where}: expected a place of its own, got {'/'.join(at)} again")
                found[(*at, key)] = array
    missing = ["/".join(key) for key in model.arrays if key not in found]
    if unused and (strict or not found):
        raise ConversionError(
            f"{os.fspath(path)}: expected a place in target for every layer, found none for {unused}; parameters not "
            f"filled: {missing}. See names"
        )
    if missing and strict:
        raise ConversionError(f"{os.fspath(path)}: expected a layer for every parameter, found none for {missing}")
    return model.replaced(found)
