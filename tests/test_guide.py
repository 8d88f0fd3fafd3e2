"""The guide: every class has its section, figures are what their script draws, and the reference has every name."""

import re
import runpy
from pathlib import Path
from types import ModuleType

import pytest

import flax_rnn
import flax_rnn.linen
import flax_rnn.nnx

DOCS = Path(__file__).parent.parent / "docs"
PAGES = sorted((DOCS / "layers").glob("*.md"))
CLASSES = (
    "RNN", "SimpleRNN", "SimpleRNNCell", "GRU", "GRUCell", "LSTM", "LSTMCell", "StackedRNNCells",
    "CuDNNGRU", "CuDNNLSTM",
)  # fmt: skip


def sections(name: str) -> list[str]:
    """Those with the class in their heading."""
    parts = (part for path in PAGES for part in path.read_text().split("\n## ")[1:])
    return [part for part in parts if f"`{name}`" in part.partition("\n")[0]]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The figures, drawn anew."""
    monkeypatch.syspath_prepend(str(DOCS / "figures"))
    return runpy.run_path(str(DOCS / "figures" / "draw.py"))["draw"]()


@pytest.mark.parametrize("name", CLASSES)
def test_every_class_has_equations_a_figure_an_example_and_code(name: str) -> None:
    (section,) = sections(name)
    assert re.search(r"^\$\$\n.+?\n\$\$$", section, re.DOTALL | re.MULTILINE)
    assert re.search(r"^!\[[^\]]{20,}\]\(\.\./figures/[\w-]+\.svg\)$", section, re.MULTILINE)
    assert "**By hand.**" in section
    code = "".join(re.findall(r"^```python\n(.*?)^```", section, re.DOTALL | re.MULTILINE))
    assert "assert " in code
    assert f"flax_rnn.nnx.{name}(" in code
    assert f"flax_rnn.linen.{name}(" in code
    assert re.search(r"flax_rnn\.(rnn|apply_cell)\(", code)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_every_page_has_equations_a_figure_and_code_of_core_and_faces(path: Path) -> None:
    text = path.read_text()
    assert re.search(r"^\$\$\n.+?\n\$\$$", text, re.DOTALL | re.MULTILINE)
    assert re.search(r"^!\[[^\]]{20,}\]\(\.\./figures/[\w-]+\.svg\)$", text, re.MULTILINE)
    code = "".join(re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE))
    for used in (r"flax_rnn\.(rnn|apply_cell|bidirectional)\(", r"flax_rnn\.nnx\.\w+\(", r"flax_rnn\.linen\.\w+\("):
        assert re.search(used, code)
    assert code.count("assert ") >= 3
    assert [line for line in code.splitlines() if len(line) > 88] == []  # as much as the site shows without scrolling


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_pages_are_short_and_say_when_and_what_goes_wrong(path: Path) -> None:
    text = path.read_text()
    assert text.count("\n") <= 125
    assert re.search(r"When to use|\*\*When:\*\*", text)
    assert re.search(r"What goes wrong|Where to go on", text)
    assert f"](layers/{path.name})" in (DOCS / "index.md").read_text()


def test_figures_are_what_their_script_draws(drawn: dict[str, str]) -> None:
    assert {path.name for path in (DOCS / "figures").glob("*.svg")} >= {*drawn}
    assert [name for name, picture in drawn.items() if (DOCS / "figures" / name).read_text() != picture] == []
    assert {name for path in PAGES for name in re.findall(r"figures/([\w-]+\.svg)", path.read_text())} == {*drawn}


@pytest.mark.parametrize("module", [flax_rnn, flax_rnn.nnx, flax_rnn.linen], ids=["core", "nnx", "linen"])
def test_the_reference_has_every_public_name(module: ModuleType) -> None:
    text = "".join(path.read_text() for path in (DOCS / "api").glob("*.rst"))
    named = {*re.findall(rf"^(?:\.\. auto\w+::|  ) ~?{re.escape(module.__name__)}\.(\w+)$", text, re.MULTILINE)}
    public = {
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and callable(value) and getattr(value, "__module__", "").startswith("flax_rnn")
    }
    assert public - named == set()
