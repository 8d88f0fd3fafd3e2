"""The documents: tests and arguments that they name exist, arguments that exist are named, and their code runs."""

import ast
import dataclasses
import functools
import inspect
import re
import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import flax_rnn
import flax_rnn.linen
import flax_rnn.nnx

TESTS = Path(__file__).parent
ROOT = TESTS.parent
PACKAGE = ROOT / "flax_rnn"
TABLE = ROOT / "docs" / "keras.md"
DOCUMENTS = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
LAYERS = ("SimpleRNN", "LSTM", "GRU", "ConvLSTM1D", "ConvLSTM2D", "ConvLSTM3D")
CELLS = ("SimpleRNNCell", "LSTMCell", "GRUCell")
# Pages whose code takes many seconds; it runs with --full.
LONG = ("deploying", "from-flax", "from-keras", "from-torch", "loading", "recipes")
# Packages of those who come from elsewhere; each section imports its own.
OTHERS = ("torch", "textgenrnn", "Resemblyzer", "g2p_en", "silero-vad")
KERAS = (*LAYERS, *CELLS, "RNN", "StackedRNNCells", "Bidirectional", "TimeDistributed")


@functools.cache
def functions(name: str) -> frozenset[str]:
    """The tests in a file."""
    (path,) = TESTS.rglob(name)
    tree = ast.parse(path.read_text())
    return frozenset(node.name for node in tree.body if isinstance(node, ast.FunctionDef))


def name_of(path: Path) -> str:
    """As in ``layers/lstm.md``."""
    return str(path.relative_to(ROOT)).removeprefix("docs/")


def blocks_in(text: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def programs() -> Iterator[Any]:
    """Blocks of README stand by themselves; those of another document follow each other, section by section."""
    for path in DOCUMENTS:
        text = path.read_text()
        sections = {part.partition("\n")[0]: "".join(blocks_in(part)) for part in text.split("\n## ")}
        found = [{"": code} for code in blocks_in(text)] if path.name == "README.md" else [sections]
        for index, program in enumerate(found):
            if any(program.values()):
                marks = [pytest.mark.full] if path.stem in LONG else []
                yield pytest.param(program, id=f"{name_of(path)}-{index}", marks=marks)


def named(text: str) -> set[str]:
    """The words in code, such as ``dropout`` in ``dropout=0.0``."""
    return {word for code in re.findall(r"`([^`\n]+)`", text) for word in re.findall(r"\w+", code)}


def arguments(function: Any) -> dict[str, inspect.Parameter]:
    """Those of a function, or of a constructor, that have names."""
    # The metaclasses of modules hide the signatures of their classes.
    parameters = inspect.signature(function.__init__ if inspect.isclass(function) else function).parameters.values()
    return {p.name: p for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL) and p.name != "self"}


def documented_arguments() -> list[tuple[str, str | None]]:
    """Name and default of the arguments of Keras, from the first column of the tables of them."""
    text = TABLE.read_text()
    section = text[text.index("## Constructor arguments") : text.index("## Behaviour")]
    columns = [line.split("|")[1] for line in section.split("\n") if line.startswith("| `")]
    return [
        (name, default or None) for column in columns for name, default in re.findall(r"`(\w+)(?:=([^`]+))?`", column)
    ]


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_references_to_tests_name_tests_that_exist(path: Path) -> None:
    references = re.findall(r"(test_\w+\.py)(?:::(\w+))?", path.read_text())
    missing = [(file, test) for file, test in references if test not in {"", *functions(file)} or not functions(file)]
    assert missing == []
    if path == TABLE:
        assert len({test for _, test in references}) > 50


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_links_lead_somewhere(path: Path) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#\s]+)", path.read_text())
    assert [link for link in links if not (path.parent / link).exists()] == []


@pytest.mark.parametrize("program", [*programs()])
def test_code_runs(program: dict[str, str]) -> None:
    """All of it, but for the sections that need another library which is not installed."""
    names: dict[str, Any] = {"__name__": "__main__"}
    absent: dict[str, str] = {}
    for title, code in program.items():
        try:
            exec(compile(code, title or "a document", "exec"), names)
        except ModuleNotFoundError as error:
            if error.name not in OTHERS:
                raise
            absent[title] = error.name
    if absent:
        pytest.skip(f"all but the sections whose package is not installed: {absent}")


def test_the_picture_is_what_its_script_draws() -> None:
    picture = runpy.run_path(str(ROOT / "docs" / "design_figure.py"))["draw"]()
    assert (ROOT / "docs" / "design.svg").read_text() == picture


def test_rooms_import_what_the_picture_shows() -> None:
    picture = runpy.run_path(str(ROOT / "docs" / "design_figure.py"))
    rooms = {name for name, *_ in picture["ROOMS"]}
    assert rooms == {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    found = set()
    for room in rooms:
        for path in (PACKAGE / room).rglob("*.py"):
            text = path.read_text()
            others = re.findall(r"^\s*(?:from|import) flax_rnn\.(\w+)", text, re.MULTILINE)
            others += re.findall(r"^\s*from flax_rnn import (.*)$", text, re.MULTILINE)
            found |= {(room, name) for other in others for name in re.findall(r"\w+", other)}
    assert {(room, other) for room, other in found if other in rooms - {room}} == {*picture["IMPORTS"]}


@pytest.mark.parametrize("face", [flax_rnn.nnx, flax_rnn.linen], ids=["nnx", "linen"])
def test_the_table_names_every_class_and_argument(face: Any) -> None:
    public = {name: value for name, value in vars(face).items() if inspect.isclass(value) or inspect.isfunction(value)}
    names = {*public}
    # A type of variables is not for users to make or to call.
    for value in (value for name, value in public.items() if name != "RecurrentState"):
        names |= {*arguments(value)}
        if dataclasses.is_dataclass(value):
            names |= {field.name for field in dataclasses.fields(value) if field.init}
        if inspect.isclass(value):
            names |= {*arguments(value.__call__)}
    assert names - {"parent"} - named(TABLE.read_text()) == set()


def test_the_table_names_every_option_of_the_core() -> None:
    names = {name for function in (flax_rnn.rnn, flax_rnn.bidirectional) for name in arguments(function)}
    assert names - named(TABLE.read_text()) == set()


def test_the_table_has_every_argument_of_keras_with_its_default() -> None:
    layers = pytest.importorskip("keras").layers
    theirs: dict[str, set[Any]] = {}
    for function in (*(getattr(layers, name) for name in KERAS), layers.Layer, layers.LSTM.call, layers.RNN.call):
        for name, parameter in arguments(function).items():
            theirs.setdefault(name, set()).add(parameter.default)
    table = documented_arguments()
    assert {*theirs} - {"autocast"} - {name for name, _ in table} == set()
    for name, default in table:
        if name in theirs and default is not None:
            assert ast.literal_eval(default) in theirs[name], name
        elif name in theirs:
            assert inspect.Parameter.empty in theirs[name], f"{name} has a default"


@pytest.mark.parametrize("name", KERAS[:-1])
def test_defaults_are_those_of_keras(name: str) -> None:
    theirs = arguments(getattr(pytest.importorskip("keras").layers, name))
    for face in (flax_rnn.nnx, flax_rnn.linen):
        ours = arguments(getattr(face, name))
        # Keras takes the order of axes from its configuration; a module of linen has a name of its own.
        shared = {*ours} & {*theirs} - {"data_format", "name", "dtype"}
        assert shared, name
        assert {n: ours[n].default for n in shared} == {n: theirs[n].default for n in shared}
