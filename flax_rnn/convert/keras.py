"""Whole models from the files of Keras."""

import os
from typing import Any

import numpy as np

from flax_rnn.convert import files
from flax_rnn.convert.errors import as_array
from flax_rnn.convert.filling import Place, fill
from flax_rnn.convert.hdf5 import MAX_BYTES
from flax_rnn.convert.lists import assign, nodes_in
from flax_rnn.convert.settings import warn_of_differences
from flax_rnn.convert.targets import Names, Path


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
    activations, the mask of an embedding or the ``epsilon`` of a normalization, are for the Flax model to have. Where
    the file tells the activations of a recurrent layer or its ``reset_after``, and those of an ``nnx.Module`` differ,
    it warns; the ``params`` of linen do not tell: compare ``read(path)["lstm"].config``.

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

    def convert(name: str, where: str, places: list[Place]) -> dict[Path, np.ndarray]:
        nodes = {
            (*at, *inner): node
            for at, tree in places
            for inner, node in nodes_in(f"{where}: target: {'/'.join(at)}", tree)
        }
        arrays = [as_array(where, array) for array in layers[name].arrays]
        parts = zip(nodes, assign(where, arrays, [*nodes.values()], cudnn), strict=True)
        warn_of_differences(where, layers[name], target, [at for at, _ in places])
        return {(*at, key): array for at, part in parts for key, array in part.items()}

    return fill(os.fspath(path), target, layers, names, strict, convert)
