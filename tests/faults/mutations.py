"""Damage: of bytes wherever they are, and of what JSON says."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np

Random = np.random.Generator

_HEADER = 2048  # where formats have most of what matters


def of_bytes(content: bytes, rng: Random) -> tuple[bytes, str]:
    """Something else than ``content``, and what was done to it."""
    kinds = [*_KINDS]
    while True:
        kind = kinds[rng.integers(len(kinds))]
        found = _KINDS[kind](content, rng)
        if found != content:
            return found, kind


def of_json(text: str | bytes, rng: Random) -> tuple[bytes, str]:
    """JSON of which one part is another; not always JSON."""
    value = json.loads(text)
    places = [*_places(value, ())]
    place = places[rng.integers(len(places))]
    if rng.random() < 0.2:
        changed = _without(value, place)
        what = "removed"
    else:
        new = _ODD[rng.integers(len(_ODD))]
        changed, what = _with(value, place, new), f"{str(new)[:20]!r}"
    return json.dumps(changed).encode("utf-8", "surrogatepass"), f"JSON {'/'.join(map(str, place))[-60:]}: {what}"


_ODD: list[Any] = [
    None, True, 0, 1, -1, 2, 7, 1 << 31, (1 << 63) - 1, 1 << 70, -(1 << 63), 0.5, 1e308, float("nan"), float("inf"), "",
    "a", "é", "\0", "\ud800", "/", "..", "a.b", "0", "x" * 5000, [], [[]], [1, -1], [0, 0], {}, {"": {}}, {"a": None},
    "F32", "I32", "F16", "lstm", "LSTM", [1 << 40, 1 << 40],
]  # fmt: skip


def _places(value: Any, here: tuple[Any, ...]) -> Any:
    yield here
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in entries:
        yield from _places(inner, (*here, key))


def _with(value: Any, place: tuple[Any, ...], new: Any) -> Any:
    if not place:
        return new
    copy: Any = dict(value) if isinstance(value, dict) else list(value)
    copy[place[0]] = _with(value[place[0]], place[1:], new)
    return copy


def _without(value: Any, place: tuple[Any, ...]) -> Any:
    if not place:
        return None
    copy: Any = dict(value) if isinstance(value, dict) else list(value)
    if len(place) == 1:
        del copy[place[0]]
    else:
        copy[place[0]] = _without(value[place[0]], place[1:])
    return copy


def _block(content: bytes, rng: Random) -> tuple[int, int]:
    """A piece of it, mostly a small one."""
    length = int(2 ** rng.uniform(0, np.log2(len(content) + 1)))
    start = int(rng.integers(0, max(1, len(content) - length + 1)))
    return start, start + max(1, length)


def _put(content: bytes, rng: Random, new: Callable[[bytes], bytes]) -> bytes:
    start, end = _block(content, rng)
    return content[:start] + new(content[start:end]) + content[end:]


def _flip(content: bytes, rng: Random) -> bytes:
    found = bytearray(content)
    for position in rng.integers(0, len(content), rng.integers(1, 9)):
        found[position] ^= 1 << rng.integers(8)
    return bytes(found)


def _flip_one(content: bytes, rng: Random) -> bytes:
    found = bytearray(content)
    found[rng.integers(len(content))] ^= 1 << rng.integers(8)
    return bytes(found)


def _number(content: bytes, rng: Random) -> bytes:
    """A number of 1 to 8 bytes, as lengths and offsets are; half of them near the beginning or the end."""
    size = 1 << int(rng.integers(4))
    end = max(1, len(content) - size)
    near = min(_HEADER, end)
    position = int([rng.integers(end), rng.integers(near), end - 1 - rng.integers(near)][rng.integers(3)])
    old = int.from_bytes(content[position : position + size], "little")
    limit = 1 << (8 * size)
    new = [
        0,
        1,
        limit - 1,
        limit // 2,
        limit // 2 - 1,
        old + 1,
        old - 1,
        old * 2,
        old + 8,
        len(content),
        len(content) - 1,
    ]
    return (
        content[:position] + (new[rng.integers(len(new))] % limit).to_bytes(size, "little") + content[position + size :]
    )


def _swap(content: bytes, rng: Random) -> bytes:
    start, end = _block(content[: len(content) // 2] or content, rng)
    other = int(rng.integers(end, max(end + 1, len(content))))
    first, second = content[start:end], content[other : other + end - start]
    return content[:start] + second + content[end:other] + first + content[other + len(second) :]


_KINDS: dict[str, Callable[[bytes, Random], bytes]] = {
    "one bit flipped": _flip_one,
    "bits flipped": _flip,
    "truncated": lambda content, rng: content[: rng.integers(len(content))],
    "truncated a little": lambda content, rng: content[: len(content) - int(rng.integers(1, 17))],
    "a number changed": _number,
    "a number changed again": _number,
    "zeros": lambda content, rng: _put(content, rng, lambda block: bytes(len(block))),
    "ones": lambda content, rng: _put(content, rng, lambda block: b"\xff" * len(block)),
    "noise": lambda content, rng: _put(content, rng, lambda block: rng.bytes(len(block))),
    "a block twice": lambda content, rng: _put(content, rng, lambda block: block + block),
    "a block less": lambda content, rng: _put(content, rng, lambda block: b""),
    "a block more": lambda content, rng: _put(content, rng, lambda block: block + rng.bytes(int(rng.integers(1, 65)))),
    "blocks swapped": _swap,
    "more at the end": lambda content, rng: content + rng.bytes(int(rng.integers(1, 257))),
}
