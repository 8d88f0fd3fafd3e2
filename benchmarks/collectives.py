"""What a compiled program exchanges between devices, counted in its text."""

import math
import re
from collections import Counter
from typing import NamedTuple

KINDS = ("all-gather", "all-reduce", "all-to-all", "collective-permute", "reduce-scatter")

_INSTRUCTION = re.compile(r" = (?P<type>\(.*?\)|\S+) (?P<name>[a-z][a-z0-9-]*)\(")
_ARRAY = re.compile(r"\b(?:[a-z]+)(?P<bits>\d+)(?:e\w+)?\[(?P<shape>[\d,]*)\]")


class Exchanged(NamedTuple):
    """In one run of a program, by kind.

    Attributes:
      times: how often.
      bytes: of the results on one device: what all-reduces add up, what others bring.
    """

    times: Counter[str]
    bytes: Counter[str]


def exchanged(program: str) -> Exchanged:
    """What an optimized HLO program exchanges; an iteration of a loop counts as often as it is run.

    Raises:
      ValueError: for a loop around collectives of which XLA does not know how often it runs.
    """
    bodies = {found["name"]: found["body"] for found in _COMPUTATION.finditer(program)}
    entry = next(found["name"] for found in _COMPUTATION.finditer(program) if found["entry"])
    return _of(entry, bodies)


_COMPUTATION = re.compile(r"^(?P<entry>ENTRY )?%(?P<name>\S+) \(.*\{\n(?P<body>(?:.*\n)*?)\}", re.MULTILINE)


def _of(name: str, bodies: dict[str, str]) -> Exchanged:
    total = Exchanged(Counter(), Counter())
    for line in bodies[name].splitlines():
        found = _INSTRUCTION.search(line)
        if found is None:
            continue
        kind = found["name"].removesuffix("-start")
        if kind in KINDS and not _alone(line):
            total.times[kind] += 1
            total.bytes[kind] += size(found["type"])
        elif kind in ("while", "call"):
            inner = _of(re.findall(r"(?:body|to_apply)=%([\w.-]+)", line)[0], bodies)
            trips = re.search(r'"known_trip_count":\{"n":"(\d+)"', line)
            if kind == "while" and trips is None and inner.times:
                raise ValueError(f"expected a loop with a known trip count, got {line[:200]}")
            for ours, theirs in zip(total, inner, strict=True):
                for one, count in theirs.items():
                    ours[one] += count * (int(trips[1]) if trips else 1)
    return total


def _alone(line: str) -> bool:
    """Whether each device makes up a group of its own, so that nothing is exchanged."""
    lists = re.search(r"replica_groups=\{(\{[\d,{}]*\})\}", line)
    if lists is not None:
        return all("," not in group for group in re.findall(r"\{([\d,]*)\}", lists[1]))
    shape = re.search(r"replica_groups=\[\d+,(\d+)\]", line)
    if shape is not None:
        return shape[1] == "1"
    over = re.search(r"replica_groups=mesh\[(?P<axes>[^\]]*)\][^{]*\{(?P<names>[^}]*)\}", line)
    if over is None:
        return False
    sizes = dict(re.findall(r"'(\w+)'=(\d+)", over["axes"]))
    return math.prod(int(sizes[name]) for name in re.findall(r"'(\w+)'", over["names"])) == 1


def size(kind: str) -> int:
    """Bytes of a type such as ``(f32[2,3]{1,0}, bf16[])``; a part of a byte counts as one."""
    found = _ARRAY.finditer(kind)
    return sum(math.prod(map(int, filter(None, one["shape"].split(",")))) * -(-int(one["bits"]) // 8) for one in found)
