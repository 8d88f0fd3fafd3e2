"""Docstrings that are put together: each argument has its words once, where it is declared.

A class inherits its arguments, and with ``describe`` the words for them: from the sections ``Attributes`` or ``Args``
of its bases. A module of Flax has its equations, weights and source from the cell of the core that it runs, and its
call has words from ``rnn``. So ``help`` of a class says everything, and nothing is written twice.
"""

import dataclasses
import functools
import inspect
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

T = TypeVar("T")
Words = tuple[str, str]
"""The type of an argument, empty where its annotation tells, and what is said of it."""

_SECTION = re.compile(r"^(Attributes|Args|Weights|Returns|Raises|Example|Source):(?: |\n)", re.MULTILINE)
_ENTRY = re.compile(r"^  (\*{0,2}\w[\w, ]*?)(?: \((.*?)\))?: ?(.*(?:\n {3,}.*)*)", re.MULTILINE)
_MODULES = re.compile(r"\b(?:\w+\.)+(?=\w)")
_WIDTH = 110

# What Flax's own bases bring along.
_OF_FLAX = {
    "parent": ("Module", "the module that this one belongs to, which Linen sets."),
    "name": ("", "of the module among those of its parent; by default that of its class, and a number."),
}


class Written(NamedTuple):
    """What somebody wrote: the first paragraph, the others, the arguments, and all sections behind them."""

    summary: str
    text: str
    arguments: dict[str, Words]
    sections: dict[str, str]


@functools.cache
def read(docstring: str | None) -> Written:
    """The parts of a docstring in Google style."""
    head, *rest = _SECTION.split(inspect.cleandoc(docstring or ""))
    summary, _, text = head.strip().partition("\n\n")
    sections = {name: body.rstrip() for name, body in zip(rest[::2], rest[1::2], strict=True)}
    return Written(summary, text, entries(sections.get("Attributes", sections.get("Args", ""))), sections)


@functools.cache
def entries(body: str) -> dict[str, Words]:
    """What a section lists, by name; names that share their words have them each."""
    found = _ENTRY.findall(body)
    return {
        name.strip(): (kind.partition(" = ")[0], re.sub(r"\n +", "\n", words).strip())
        for names, kind, words in found
        for name in names.split(",")
    }


@functools.cache
def written(cls: type) -> Written:
    """The docstring of a class as it is in its source, also once ``describe`` has put another one in its place."""
    return read(cls.__doc__)


def describe(cls: type[T]) -> type[T]:
    """A decorator of classes, to be the outermost: completes the docstring."""
    if _stripped(cls):
        return cls
    documents = [written(one) for one in _sources(cls)]
    call: Any = next((vars(one)["__call__"] for one in cls.__mro__ if "__call__" in vars(one)), None)
    of_call = read(call.__doc__ if call else None)
    cls.__doc__ = _joined(
        documents[0].summary,
        documents[0].text,
        *(one.text for one in documents[1:] if "Weights" in one.sections),
        _section("Weights", _first("Weights", documents)),
        _section("Args", _listed(_arguments(cls), _said(documents), getattr(cls, "fixed", {}))),
        _section("Call arguments", _listed(_parameters(call), of_call.arguments) if call else ""),
        _section("Returns", of_call.sections.get("Returns", "")),
        _section("Raises", _raised([*documents, of_call])),
        _section("Example", _example(cls, documents)),
        f"Source: {source}" if (source := _first("Source", documents)) else "",
    )
    return cls


def describe_call(*sources: Callable[..., Any]) -> Callable[[T], T]:
    """A decorator of functions: completes the docstring by what those of ``sources`` say of the same arguments."""

    def decorate(function: Any) -> Any:
        if _stripped(function):
            return function
        documents = [read(one.__doc__) for one in (function, *sources)]
        function.__doc__ = _joined(
            documents[0].summary,
            documents[0].text,
            _section("Args", _listed(_parameters(function), _said(documents))),
            *(_section(name, _first(name, documents)) for name in ("Returns", "Raises")),
            f"Source: {source}" if (source := _first("Source", documents)) else "",
        )
        return function

    return decorate


class SignatureOfInit:
    """For ``__signature__`` of classes whose metaclass hides the arguments: those of the constructor."""

    def __get__(self, instance: object, owner: Any) -> inspect.Signature | None:
        """For the class; an instance has the signature of its call."""
        return inspect.Signature(_arguments(owner)) if instance is None else None


def _stripped(thing: Any) -> bool:
    """Whether there are no docstrings, as with ``python -OO``, where dataclasses make some up."""
    return sys.flags.optimize > 1 or not thing.__doc__


def _sources(cls: Any) -> list[type]:
    """The class, its bases, and the cell of the core that it stands for."""
    cell = getattr(cls, "core_type", getattr(getattr(cls, "cell_type", None), "core_type", None))
    classes = dict.fromkeys((*cls.__mro__, *(cell.__mro__ if cell else ())))
    return [one for one in classes if one is cls or one.__module__.startswith(f"{__package__}.")]


@functools.cache
def _parameters(function: Any) -> list[inspect.Parameter]:
    """Those of a method, but for ``self``; of a function all."""
    return [one for one in inspect.signature(function).parameters.values() if one.name != "self"]


def _arguments(cls: Any) -> list[inspect.Parameter]:
    """Those of the constructor, which may take fields of a dataclass as ``**options``."""
    given = _parameters(cls.__init__)
    plain = [one for one in given if one.kind is not one.VAR_KEYWORD]
    fields = dataclasses.fields(cls) if len(plain) < len(given) and dataclasses.is_dataclass(cls) else ()
    more = [
        inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=field.type)
        for field in fields
        if field.init and field.name not in {one.name for one in plain}
    ]
    return plain + more


def _said(documents: Sequence[Written]) -> Mapping[str, Words]:
    said = dict(_OF_FLAX)
    for document in reversed(documents):
        said |= document.arguments
    return said


def _first(section: str, documents: Sequence[Written]) -> str:
    return next((one.sections[section] for one in documents if section in one.sections), "")


def _joined(*parts: str) -> str:
    return "\n\n".join(dict.fromkeys(filter(None, parts)))


def _section(title: str, body: str) -> str:
    return f"{title}:\n{body}" if body else ""


def _listed(
    parameters: Sequence[inspect.Parameter], said: Mapping[str, Words], fixed: Mapping[str, Any] | None = None
) -> str:
    """Arguments with type, default and words; those of ``fixed`` have one value only."""
    lines = []
    for one in sorted(parameters, key=lambda one: one.name in _OF_FLAX):
        name = f"**{one.name}" if one.kind is one.VAR_KEYWORD else one.name
        if name in said:
            kind, words = said[name]
            words += f" Always ``{fixed[name]!r}`` here." if fixed and name in fixed else ""
            about = " = ".join(filter(None, (kind or _type(one.annotation), _value(one.default))))
            lines.append(_entry(f"{name} ({about})", words))
    return "\n".join(lines)


def _entry(name: str, words: str) -> str:
    if "\n" in words or len(name) + len(words) > _WIDTH:
        return f"  {name}:\n    " + words.replace("\n", "\n    ")
    return f"  {name}: {words}"


def _raised(documents: Sequence[Written]) -> str:
    """All errors, each with all of its causes."""
    causes: dict[str, dict[str, None]] = {}
    for document in documents:
        for name, (_, words) in entries(document.sections.get("Raises", "")).items():
            causes.setdefault(name, {})[words.rstrip(".")] = None
    return "\n".join(_entry(name, ";\n".join(words) + ".") for name, words in causes.items())


def _example(cls: Any, documents: Sequence[Written]) -> str:
    """The class's own, or that of its bases, which is of sizes that suit its number of spatial axes."""
    example, rank = _first("Example", documents), getattr(cls, "rank", 0)
    if "Example" in documents[0].sections:
        return example
    sizes = {"x": (2, 5, *(8,) * rank, 3), "y": (2, 5, *(6,) * rank, 4), "step": (2, *(8,) * rank, 3)}
    return example.format(name=cls.__name__, H="4, kernel_size=3" if rank else "4", out=(2, *sizes["y"][2:]), **sizes)


@functools.cache
def _type(annotation: Any) -> str:
    """An annotation in few words."""
    if annotation is inspect.Parameter.empty:
        return ""
    annotation = annotation.type if isinstance(annotation, dataclasses.InitVar) else annotation
    words = _MODULES.sub("", inspect.formatannotation(annotation))
    return re.sub(r"^Optional\[(.*)\]$", r"\1 | None", words)


def _value(default: Any) -> str:
    """A default as one would write it; nothing where there is none, or none to be written."""
    if default is inspect.Parameter.empty or default is dataclasses.MISSING or " at 0x" in repr(default):
        return ""
    return getattr(default, "__name__", repr(default))
