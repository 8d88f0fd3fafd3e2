"""Calls of foreign functions that each device of a mesh makes for its own rows of the batch.

XLA cannot look into a foreign function: where it compiles for several devices, it gathers whatever the function reads
and runs all of it everywhere. Here it is told which axis of each array is the batch. What each device computes is then
the call for its rows; sums over the batch are added up over the devices.

How a batch is divided is known at three times, and each has its way. Within ``jax.shard_map`` it is already, and the
call is plain. On axes of type Explicit it is part of the types of arrays, and ``_mapped`` goes by them. Otherwise XLA
decides while it compiles, whether or not a mesh was in sight while jax traced, and asks ``_partition``.
"""

import functools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.core import ShapedArray
from jax.experimental.custom_partitioning import custom_partitioning
from jax.extend.core import Primitive
from jax.interpreters import batching, mlir
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

Call = Callable[[Sequence[jax.ShapeDtypeStruct]], Callable[..., Sequence[jax.Array]]]
"""Makes a function of arrays from what it returns, as ``jax.ffi.ffi_call`` does; hashable."""


class Rows(NamedTuple):
    """Which axis of each array is the batch.

    Attributes:
      operands: the axis of each; ``None`` for one that every device has to have all of.
      results: the axis of each; ``None`` for one that is a sum over the batch.
    """

    operands: tuple[int | None, ...]
    results: tuple[int | None, ...]


def by_rows(
    call: Call, rows: Rows, results: Sequence[jax.ShapeDtypeStruct], *operands: jax.Array
) -> Sequence[jax.Array]:
    """``call(results)(*operands)``, for the rows that each device has; ``results`` have all rows that are in sight.

    Under ``jax.vmap`` the rows of all are rows of one call; where anything else differs, calls follow one another.
    """
    if not within_shard_map():
        return _by_rows.bind(*operands, call=call, rows=rows, results=tuple(results), devices=_NEEDS_DEVICES)
    axes = _varying(operands)
    return [_vary(result, axes) for result in call(results)(*operands)]


def within_shard_map() -> bool:
    """Whether all axes of the mesh are those of a ``jax.shard_map``, so that arrays are those of one device."""
    return set(jax.sharding.get_abstract_mesh().axis_types) == {AxisType.Manual}


def obstacle() -> str | None:
    """Why the calls cannot be divided here, in words; ``None`` if they can."""
    kinds = set(jax.sharding.get_abstract_mesh().axis_types)
    if AxisType.Manual in kinds and len(kinds) > 1:
        return "jax.shard_map leaves axes of the mesh to XLA here, over which the batch may be divided, too"
    return None


def varying_alike(tree: Any) -> Any:
    """``tree``, all leaves of which vary over the axes of ``jax.shard_map`` over which one of them does.

    What has a derivative of its own needs this, as the gradient of what does not vary must not: it is a sum.
    """
    if AxisType.Manual not in jax.sharding.get_abstract_mesh().axis_types:
        return tree
    axes = _varying(jax.tree.leaves(tree))
    return jax.tree.map(lambda leaf: _vary(leaf, axes), tree)


def aligned(rows: Any, whole: Any) -> tuple[Any, Any]:
    """Both trees as ``by_rows`` wants arrays on axes of type Explicit, where a gradient has to have the same type.

    The first axis of all ``rows`` is divided like that of the first of them that is divided there, and nothing else.
    """
    divided, kept = jax.tree.leaves(rows), jax.tree.leaves(whole)
    mesh = _mesh_of(map(jax.typeof, [*divided, *kept]))
    if AxisType.Explicit not in mesh.axis_types:
        return rows, whole
    over = _divided([jax.typeof(leaf).sharding for leaf in divided], [0] * len(divided))

    def laid_out(tree: Any, axis: int | None) -> Any:
        return jax.tree.map(
            lambda leaf: jax.sharding.reshard(leaf, NamedSharding(mesh, _spec(leaf.ndim, axis, over))), tree
        )

    return laid_out(rows, 0), laid_out(whole, None)


def _mesh_of(types: Iterable[Any]) -> Any:
    """The mesh that the types of arrays tell, maybe an empty one."""
    *others, last = (one.sharding.mesh for one in types)
    return next((mesh for mesh in others if not mesh.empty), last)


def _varying(arrays: Sequence[jax.Array]) -> frozenset[Any]:
    """The axes of ``jax.shard_map`` over which they vary; none unless it checks that."""
    return frozenset().union(*(jax.typeof(array).manual_axis_type.varying for array in arrays))


def _vary(array: jax.Array, axes: frozenset[Any]) -> jax.Array:
    missing = tuple(sorted(axes - _varying([array])))
    return jax.lax.pcast(array, missing, to="varying") if missing else array


def _call(call: Call, rows: Rows, results: Sequence[jax.ShapeDtypeStruct], *operands: jax.Array) -> list[jax.Array]:
    """The call for as many rows as there are in ``operands``."""
    size = _size(operands, rows)

    def own(result: jax.ShapeDtypeStruct, axis: int | None) -> jax.ShapeDtypeStruct:
        if axis is None:
            return result
        return jax.ShapeDtypeStruct((*result.shape[:axis], size, *result.shape[axis + 1 :]), result.dtype)

    return list(call([own(*one) for one in zip(results, rows.results, strict=True)])(*operands))


def _size(operands: Sequence[Any], rows: Rows) -> int:
    """How many rows there are."""
    axes = zip(operands, rows.operands, strict=True)
    return next((operand.shape[axis] for operand, axis in axes if axis is not None), 0)


def _types(*operands: Any, rows: Rows, results: Sequence[jax.ShapeDtypeStruct], **_: Any) -> list[Any]:
    """The results' types; on Explicit axes, with the batch divided like the operands'."""
    mesh = _mesh_of(operands)
    divided = _divided([aval.sharding for aval in operands], rows.operands)

    def type_of(result: jax.ShapeDtypeStruct, axis: int | None) -> Any:
        sharding = None if mesh.empty else NamedSharding(mesh, _spec(len(result.shape), axis, divided))
        return ShapedArray(result.shape, result.dtype, sharding=sharding)

    return [type_of(*one) for one in zip(results, rows.results, strict=True)]


def _divided(shardings: Sequence[Any], axes: Sequence[int | None]) -> Any:
    """Over which axes of the mesh the batch is divided; ``None`` for none."""
    found = zip(shardings, axes, strict=True)
    specs = ((getattr(sharding, "spec", ()), axis) for sharding, axis in found if axis is not None)
    return next((spec[axis] for spec, axis in specs if len(spec) > axis and spec[axis]), None)


def _spec(ndim: int, axis: int | None, divided: Any) -> P:
    return P(*(divided if one == axis else None for one in range(ndim)))


def _specs(arrays: Sequence[Any], axes: Sequence[int | None], divided: Any) -> list[P]:
    return [_spec(len(one.shape), axis, divided) for one, axis in zip(arrays, axes, strict=True)]


def _lower(context: Any, *operands: Any, devices: Any, **parameters: Any) -> Any:
    del devices
    function: Any = functools.partial(_call, *(parameters[name] for name in ("call", "rows", "results")))
    mesh = _mesh_of(context.avals_in)
    if {*mesh.axis_types} == {AxisType.Explicit}:
        function = _mapped(mesh, context.avals_in, **parameters)
    elif getattr(context.module_context.axis_context, "num_devices", None) != 1:
        function = custom_partitioning(function)
        function.def_partition(
            functools.partial(_partition, **parameters),
            infer_sharding_from_operands=lambda *arguments: _partition(*arguments, **parameters)[2],
            sharding_rule=functools.partial(_rule, parameters["rows"]),
        )
    return mlir.lower_fun(function, multiple_results=True)(context, *operands)


def _rule(rows: Rows, mesh: Any, operands: Sequence[Any], results: Sequence[Any]) -> Any:
    """For Shardy: all arrays share the batch, and nothing else is divided."""
    del mesh
    others: list[str] = []

    def factors(array: Any, axis: int | None) -> str:
        names = []
        for one in range(array.rank):
            if one != axis:
                others.append(f"other{len(others)}")
            names.append("rows" if one == axis else others[-1])
        return " ".join(names)

    left, right = (
        ", ".join(map(factors, arrays, axes)) for arrays, axes in ((operands, rows.operands), (results, rows.results))
    )
    return f"{left} -> {right}", {"need_replication_factors": tuple(others)}


def _partition(
    mesh: Any, operands: Sequence[Any], shapes: Sequence[Any], *, call: Call, rows: Rows, results: Any
) -> tuple[Any, ...]:
    """For XLA: what each device computes, and how arrays have to be divided for it."""
    names, mesh = _names(mesh, operands, rows)

    def shardings(arrays: Sequence[Any], axes: Sequence[int | None]) -> list[NamedSharding]:
        return [NamedSharding(mesh, spec) for spec in _specs(arrays, axes, names)]

    own = functools.partial(_own, call, rows, results, names)
    return mesh, own, shardings(shapes, rows.results), tuple(shardings(operands, rows.operands))


def _own(call: Call, rows: Rows, results: Any, names: Any, *parts: jax.Array) -> list[jax.Array]:
    """What a device computes, if the batch is divided over the axes ``names``."""
    found = zip(_call(call, rows, results, *parts), rows.results, strict=True)
    return [jax.lax.psum(one, names) if axis is None and names and one.size else one for one, axis in found]


def _mapped(mesh: Any, operands: Sequence[Any], *, call: Call, rows: Rows, results: Any) -> Any:
    """The call on axes of type Explicit only, where nothing is left for XLA to decide."""
    names = _divided([operand.sharding for operand in operands], rows.operands)

    return jax.shard_map(
        functools.partial(_own, call, rows, results, names),
        mesh=mesh,
        in_specs=tuple(_specs(operands, rows.operands, names)),
        out_specs=_specs(results, rows.results, names),
        check_vma=False,
    )


def _names(mesh: Any, operands: Sequence[Any], rows: Rows) -> tuple[Any, Any]:
    """The axes of the mesh over which the batch is divided, and the mesh."""
    if mesh.empty:  # since shardings are not of a mesh, and its axes would have no names
        devices = [*operands[0].sharding.device_set]
        return None, jax.make_mesh((len(devices),), ("devices",), axis_types=(AxisType.Auto,), devices=devices)
    names = _divided([operand.sharding for operand in operands], rows.operands)
    size = _size(operands, rows)
    each = math.prod(mesh.shape[name] for name in (names if isinstance(names, tuple) else (names,) if names else ()))
    # XLA would fill up the last shard, and sums would have what it fills in.
    return (None if size % each else names), mesh


def _batched(operands: Sequence[jax.Array], axes: Sequence[int | None], **parameters: Any) -> Any:
    """For ``jax.vmap``."""
    rows: Rows = parameters["rows"]
    each = zip(operands, axes, rows.operands, strict=True)
    whole = any(axis is not None and row is None for _, axis, row in each) or None in rows.results
    explicit = AxisType.Explicit in _mesh_of(map(jax.typeof, operands)).axis_types
    return (_one_by_one if whole or explicit else _joined)(operands, axes, **parameters)


def _joined(operands: Sequence[jax.Array], axes: Sequence[int | None], **parameters: Any) -> Any:
    """One call for all, whose rows are one behind the other."""
    rows: Rows = parameters["rows"]
    size = next(one.shape[axis] for one, axis in zip(operands, axes, strict=True) if axis is not None)

    def of_all(operand: jax.Array, axis: int | None, row: int | None) -> jax.Array:
        if row is None:
            return operand
        if axis is None:
            operand = jnp.broadcast_to(jnp.expand_dims(operand, row), _inserted(operand.shape, row, size))
        return _merged(jnp.moveaxis(operand, row if axis is None else axis, row), row)

    def wide(result: jax.ShapeDtypeStruct, row: int) -> jax.ShapeDtypeStruct:
        shape = (*result.shape[:row], size * result.shape[row], *result.shape[row + 1 :])
        return jax.ShapeDtypeStruct(shape, result.dtype)

    types: Any = zip(parameters["results"], rows.results, strict=True)
    parameters["results"] = tuple(wide(*one) for one in types)
    results = _by_rows.bind(*map(of_all, operands, axes, rows.operands), **parameters)
    split: Any = zip(results, rows.results, strict=True)
    return [
        result.reshape(*result.shape[:row], size, result.shape[row] // size, *result.shape[row + 1 :])
        for result, row in split
    ], [*rows.results]


def _inserted(shape: Sequence[int], axis: int, size: int) -> tuple[int, ...]:
    return (*shape[:axis], size, *shape[axis:])


def _merged(array: jax.Array, axis: int) -> jax.Array:
    """This axis and the next one as one."""
    shape = array.shape
    return array.reshape(*shape[:axis], shape[axis] * shape[axis + 1], *shape[axis + 2 :])


def _one_by_one(operands: Sequence[jax.Array], axes: Sequence[int | None], **parameters: Any) -> Any:
    """A call after the other."""
    many = [jnp.moveaxis(one, axis, 0) for one, axis in zip(operands, axes, strict=True) if axis is not None]
    over = _divided([jax.typeof(one).sharding for one in many], [0] * len(many))

    def one(some: Sequence[jax.Array]) -> Any:
        left = iter(some)
        return _by_rows.bind(
            *(operand if axis is None else next(left) for operand, axis in zip(operands, axes, strict=True)),
            **parameters,
        )

    if over is None:
        results = jax.lax.map(one, many)
    else:  # of type Explicit, over which jax does not loop
        results = [_laid_out(result, over) for result in jax.lax.map(one, [_laid_out(each, None) for each in many])]
    return results, [0] * len(results)


def _laid_out(array: jax.Array, first: Any) -> jax.Array:
    """``array``, the first axis divided over the axes ``first`` of the mesh."""
    sharding: Any = jax.typeof(array).sharding
    return jax.sharding.reshard(array, NamedSharding(sharding.mesh, P(first, *sharding.spec[1:])))


# jax tells a lowering which devices it is for only where it finds this primitive of its own in what is lowered.
_partitioned = custom_partitioning(lambda x: x)
_partitioned.def_partition(None)
_NEEDS_DEVICES = jax.make_jaxpr(_partitioned)(jax.ShapeDtypeStruct((), jnp.float32))

_by_rows = Primitive("flax_rnn_by_rows")
_by_rows.multiple_results = True
_by_rows.def_abstract_eval(_types)
# This is for `jax.disable_jit`; otherwise, layers are within `jax.jit`.
_by_rows.def_impl(lambda *operands, call, rows, results, **_: _call(call, rows, results, *operands))
batching.primitive_batchers[_by_rows] = _batched
mlir.register_lowering(_by_rows, _lower)
