"""Damage within the structure of a file: what comes out is intact for a checksum, and says something else."""

import io
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from tests.faults import mutations
from tests.faults.mutations import Random


def change(path: Path, rng: Random) -> str:
    """Changes a file, or one in a folder; returns what was done."""
    if path.is_dir():
        inner = sorted(one for one in path.rglob("*") if one.is_file() and one.stat().st_size and one.name != "lock")
        return change_file(inner[rng.integers(len(inner))], rng)
    return change_file(path, rng)


def change_file(path: Path, rng: Random) -> str:
    """Changes a file as its content suggests, or some of its bytes."""
    content = path.read_bytes()
    if rng.random() < 0.05 and path.suffix != ".h5":
        path.unlink()
        path.write_bytes(b"")
        return f"{path.name}: empty"
    way = _bytes if rng.random() < 0.5 else _way(content)
    new, what = way(content, rng)
    path.write_bytes(new)
    return f"{path.name}: {what}"


def _way(content: bytes) -> Any:
    if zipfile.is_zipfile(io.BytesIO(content)):
        return _zip
    if content.startswith(b"\x89HDF"):
        return _hdf5
    if content[8:9] == b"{":
        return _safetensors
    return _json if content[:1] in (b"{", b"[") else _bytes


_bytes = mutations.of_bytes


def _json(content: bytes, rng: Random) -> tuple[bytes, str]:
    try:
        return mutations.of_json(content, rng)
    except ValueError:  # it looked like it
        return _bytes(content, rng)


def _safetensors(content: bytes, rng: Random) -> tuple[bytes, str]:
    """Another header, of the length that is said."""
    length = int.from_bytes(content[:8], "little")
    header, what = mutations.of_json(content[8 : 8 + length], rng)
    return len(header).to_bytes(8, "little") + header + content[8 + length :], f"header: {what}"


def _zip(content: bytes, rng: Random) -> tuple[bytes, str]:
    """Another content of one file of an archive, which is one file less, or has one twice or by another name."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    names = [*files]
    chosen = names[rng.integers(len(names))]
    entries = [*files.items()]
    kind = rng.integers(8)
    if kind == 0:
        entries.remove((chosen, files[chosen]))
        what = "removed"
    elif kind == 1:
        entries.append((chosen, files[chosen]))
        what = "twice"
    elif kind == 2:
        entries = [(name if name != chosen else f"x{name}", text) for name, text in entries]
        what = "renamed"
    else:
        new, what = _way(files[chosen])(files[chosen], rng) if files[chosen] else (b"x", "a byte")
        entries = [(name, new if name == chosen else text) for name, text in entries]
    found = io.BytesIO()
    compression = zipfile.ZIP_DEFLATED if rng.random() < 0.1 else zipfile.ZIP_STORED
    with warnings.catch_warnings(), zipfile.ZipFile(found, "w", compression) as archive:
        warnings.simplefilter("ignore")  # of names that are there twice
        for name, text in entries:
            archive.writestr(name, text)
    return found.getvalue(), f"{chosen}: {what}"


def _hdf5(content: bytes, rng: Random) -> tuple[bytes, str]:
    """Another attribute, array, link or name."""
    import h5py

    stream = io.BytesIO(content)
    with h5py.File(stream, "r+") as file:
        nodes: list[Any] = [file]
        file.visititems(lambda _, node: nodes.append(node))
        node = nodes[rng.integers(len(nodes))]
        if node.attrs and rng.random() < 0.5:
            what = _attribute(node, rng)
        elif node.name != "/":
            what = _node(file, node, rng)
        else:
            file["another"] = np.ones(3)
            what = "another array"
        name = node.name if node else "?"
    return stream.getvalue(), f"{name}: {what}"


def _attribute(node: Any, rng: Random) -> str:
    names = sorted(node.attrs)
    name = names[rng.integers(len(names))]
    old = node.attrs[name]
    if isinstance(old, str) and old[:1] == "{" and rng.random() < 0.9:
        new, what = mutations.of_json(old, rng)
        node.attrs[name] = np.bytes_(new)
        return f"attribute {name}: {what}"
    odd: list[Any] = [
        1,
        0.5,
        "",
        "a",
        "lstm",
        b"\xff",
        [b"a", b"a"],
        np.zeros((2, 2)),
        [b"/"],
        [b".."],
        [b""],
        np.zeros(0),
    ]
    if isinstance(old, np.ndarray) and old.ndim == 1 and len(old):
        odd += [old[:-1], old[::-1], [*old, old[0]]]
    if rng.random() < 0.2:
        del node.attrs[name]
        return f"attribute {name}: removed"
    new = odd[rng.integers(len(odd))]
    node.attrs[name] = new
    return f"attribute {name}: {str(new)[:20]!r}"


def _node(file: Any, node: Any, rng: Random) -> str:
    import h5py

    name, parent = node.name, node.parent
    shape = getattr(node, "shape", (2, 3))
    odd: list[Any] = [
        np.ones(shape, "i4"), np.ones(shape, "c8"), np.ones(shape, "f8"), np.ones(shape, "f2"), np.ones((*shape, 1)),
        np.ones(shape[::-1]), np.ones(0), 1.0, "text", np.zeros(3, "V2"), np.zeros(2, [("a", "f4"), ("b", "i2")]),
        h5py.Empty("f4"), h5py.SoftLink("/nowhere"), h5py.SoftLink(name), h5py.ExternalLink("other.h5", "/"), parent,
    ]  # fmt: skip
    kind = rng.integers(len(odd) + 2)
    if kind == len(odd):
        del file[name]
        return "removed"
    if kind == len(odd) + 1:
        file.move(name, f"{name}_1")
        return "renamed"
    del file[name]
    file[name] = odd[kind]
    return f"replaced by {str(odd[kind])[:30]!r}"
