"""Docstrings of classes: they name all arguments and no others, state defaults that hold, and their examples run."""

import dataclasses
import doctest
import inspect
import pickle
import re
import subprocess
import sys
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

import flax_rnn
import flax_rnn.linen
import flax_rnn.nnx

FACES = (flax_rnn, flax_rnn.nnx, flax_rnn.linen)
# Tuples, protocols, dataclasses of options and variables, which are no cells and layers.
OTHERS = {"Cell", "Choice", "DropoutMasks", "LSTMCarry", "LayerOptions", "SequenceOptions", "RecurrentState"}
BUILT_IN = ("SimpleRNN", "LSTM", "GRU", "CuDNNLSTM", "CuDNNGRU", "ConvLSTM1D", "ConvLSTM2D", "ConvLSTM3D")
ENTRY = re.compile(r"^  (\**\w+)(?: \((.*?)\))?:(?: |$)", re.MULTILINE)


def classes(*faces: ModuleType) -> list[Any]:
    """Those of cells and layers."""
    return [
        pytest.param(value, id=f"{face.__name__}.{name}")
        for face in faces
        for name, value in vars(face).items()
        if inspect.isclass(value) and value.__module__.startswith("flax_rnn.") and name not in OTHERS
    ]


def section(thing: Any, title: str) -> str:
    """What is indented below a title."""
    text = inspect.cleandoc(thing.__doc__) + "\n"
    found = re.search(rf"^{title}:\n((?:  .*\n?|\n(?=  ))+)", text, re.MULTILINE)
    return found[1] if found else ""


def documented(thing: Any, title: str) -> dict[str, str]:
    """Type and default of the arguments in a section."""
    listed = ENTRY.findall(section(thing, title))
    assert len({name for name, _ in listed}) == len(listed)
    return dict(listed)


def expected(function: Any) -> dict[str, inspect.Parameter]:
    """The arguments, where ``**options`` stands for the options of layers."""
    given = [one for one in inspect.signature(function).parameters.values() if one.name != "self"]
    named = {one.name: one for one in given if one.kind is not one.VAR_KEYWORD}
    if len(named) < len(given):
        for field in dataclasses.fields(flax_rnn.LayerOptions):
            named[field.name] = inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default)
    return named


def check(listed: dict[str, str], parameters: dict[str, inspect.Parameter]) -> None:
    """That they are the same, with the same defaults."""
    assert {*listed} == {*parameters}
    for name, kind in listed.items():
        stated, default = kind.partition(" = ")[2], parameters[name].default
        if name != "parent":  # whose default is an object without a name
            assert stated == ("" if default is inspect.Parameter.empty else getattr(default, "__name__", repr(default)))
        assert kind.partition(" = ")[0] or default is inspect.Parameter.empty


def test_there_are_classes_in_each_face() -> None:
    names = {name for one in BUILT_IN for name in (one, f"{one}Cell")} | {"RNN", "Bidirectional", "StackedRNNCells"}
    for face in (flax_rnn.nnx, flax_rnn.linen):
        assert {one.values[0].__name__ for one in classes(face)} == names | {"CoreCell"}
    assert {one.values[0].__name__ for one in classes(flax_rnn)} == {f"{one}Cell" for one in BUILT_IN} | {
        "StackedRNNCells"
    }


@pytest.mark.parametrize("cls", classes(*FACES))
def test_all_arguments_are_documented_and_no_others(cls: Any) -> None:
    check(documented(cls, "Args"), expected(cls.__init__))


@pytest.mark.parametrize("cls", classes(flax_rnn.nnx, flax_rnn.linen))
def test_all_arguments_of_the_call_are_documented_and_no_others(cls: Any) -> None:
    check(documented(cls, "Call arguments"), expected(cls.__call__))
    check(documented(cls.__call__, "Args"), expected(cls.__call__))
    # Sphinx takes what stands ahead of a colon for a type.
    first = re.sub("``.*?``", "", section(cls, "Returns").split("\n")[0])
    assert len(first) > 20
    assert ":" not in first


@pytest.mark.parametrize("function", [flax_rnn.rnn, flax_rnn.bidirectional])
def test_all_arguments_of_the_loops_are_documented_and_no_others(function: Any) -> None:
    parameters = inspect.signature(function).parameters
    check(
        documented(function, "Args"),
        {f"{'**' * (one.kind is one.VAR_KEYWORD)}{name}": one for name, one in parameters.items()},
    )


@pytest.mark.parametrize("cls", classes(*FACES))
def test_all_have_a_summary_errors_and_no_width_without_end(cls: Any) -> None:
    lines = cls.__doc__.split("\n")
    assert lines[0].endswith(".")
    assert lines[1] == ""
    assert max(map(len, lines)) <= 120
    assert {*documented(cls, "Raises")} == {"ValueError", "TypeError"}
    assert "Source: " in cls.__doc__ or cls.__name__ == "CoreCell"
    assert not re.search(r"[{}]|\bAttributes:", cls.__doc__.replace('rngs={"dropout": key}', ""))


@pytest.mark.parametrize("cls", [*classes(*FACES), pytest.param(flax_rnn.gates, id="gates")])
def test_examples_run(cls: Any) -> None:
    example = doctest.DocTestParser().get_doctest(section(cls, "Example"), {}, cls.__name__, None, None)
    assert any(f"{cls.__name__}(" in one.source for one in example.examples)
    assert max(len(line) for line in section(cls, "Example").split("\n")) <= 80  # what fits on a page
    assert any(re.fullmatch(r"\(\d+(, \d+)+\)\n", one.want) for one in example.examples)  # a shape
    printed: list[str] = []
    assert doctest.DocTestRunner(verbose=False).run(example, out=printed.append).failed == 0, "".join(printed)


@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize("name", BUILT_IN)
def test_weights_have_the_shapes_that_are_stated(name: str, use_bias: bool) -> None:
    if name.startswith("CuDNN") and not use_bias:
        pytest.skip("always has one")
    rank = int(name[-2]) if name.startswith("Conv") else 0
    given = {"kernel_size": (3, 2, 5)[:rank]} if rank else {}
    cell = getattr(flax_rnn, f"{name}Cell")(7, use_bias=use_bias, **given)
    shapes = jax.tree.map(jnp.shape, cell.init_params(jax.random.key(0), 4))
    sizes = {"D": 4, "C": 4, "H": 7, "F": 7, "kernel_size": (3, 2, 5)[:rank]}
    for one in (getattr(flax_rnn, f"{name}Cell"), getattr(flax_rnn.nnx, name), getattr(flax_rnn.linen, f"{name}Cell")):
        stated = dict(re.findall(r"^  (\w+): ``(\(.*?\))``", section(one, "Weights"), re.MULTILINE))
        assert {*stated} == {"kernel", "recurrent_kernel", "bias"}
        products = {weight: re.sub(r"(\d) (\w)", r"\1 * \2", shape) for weight, shape in stated.items()}
        assert {weight: eval(products[weight], {}, sizes) for weight in shapes} == shapes
    assert ("bias" in shapes) == use_bias


@pytest.mark.parametrize("name", [*BUILT_IN, "RNN", "Bidirectional", "StackedRNNCells", "CoreCell"])
def test_signatures_show_the_arguments(name: str) -> None:
    for face in (flax_rnn.nnx, flax_rnn.linen):
        cls = getattr(face, name)
        assert [*inspect.signature(cls).parameters] == [*expected(cls.__init__)]


def test_the_signature_of_a_subclass_is_its_own() -> None:
    class Wide(flax_rnn.nnx.LSTM):
        """An LSTM of one size."""

        def __init__(self, size: int, *, rngs: nnx.Rngs):
            super().__init__(size, size, rngs=rngs)

    assert [*inspect.signature(Wide).parameters] == ["size", "rngs"]
    layer = Wide(3, rngs=nnx.Rngs(0))
    assert "inputs" in inspect.signature(layer).parameters
    assert inspect.getdoc(Wide) == "An LSTM of one size."


def test_equations_are_those_of_the_cell() -> None:
    for name in BUILT_IN:
        (equations,) = re.findall(r"::\n\n((?: {4}.*\n)+)", getattr(flax_rnn, f"{name}Cell").__doc__)
        assert "h' = " in equations
        for face in (flax_rnn.nnx, flax_rnn.linen):
            assert equations in getattr(face, name).__doc__
            assert equations in getattr(face, f"{name}Cell").__doc__


def test_values_that_are_fixed_are_named() -> None:
    words = section(flax_rnn.nnx.CuDNNGRU, "Args")
    for name, value in (("dropout", 0.0), ("activation", "tanh"), ("reset_after", True)):
        (entry,) = re.findall(rf"^  {name} \((?:.*\n)+?(?=  \w)", words, re.MULTILINE)
        assert f"Always ``{value!r}`` here." in " ".join(entry.split())
    assert "Always" not in section(flax_rnn.nnx.GRU, "Args")


def test_cells_can_be_pickled_and_imported_without_docstrings() -> None:
    cell = flax_rnn.LSTMCell(4)
    assert pickle.loads(pickle.dumps(cell)) == cell
    code = "import flax_rnn.nnx, flax_rnn.linen; print(flax_rnn.nnx.LSTM.__call__.__doc__)"
    done = subprocess.run([sys.executable, "-OO", "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("None\n", 0), done.stderr
