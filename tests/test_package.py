"""What the package imports, and what it promises to tools."""

import ast
import subprocess
import sys
from importlib import resources
from pathlib import Path

import pytest

import flax_rnn

PACKAGE = Path(flax_rnn.__file__).parent
FACES = {"linen", "nnx"}
# These need more than jax: numpy and files, optax.
BESIDE = {"convert", "constraints.py"}
CORE = sorted(p for p in PACKAGE.rglob("*.py") if p.relative_to(PACKAGE).parts[0] not in FACES | BESIDE)

WITHOUT_FLAX = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"flax", "optax", "chex", "keras", "tensorflow_datasets", "tensorflow"}:
            raise ImportError(f"blocked: {name}")

sys.meta_path.insert(0, Blocker())
try:
    import flax
except ImportError as error:
    assert "blocked" in str(error)
else:
    raise AssertionError("flax was not blocked")

import jax
import flax_rnn

cell = flax_rnn.StackedRNNCells((flax_rnn.LSTMCell(2), flax_rnn.GRUCell(3)))
params = cell.init_params(jax.random.key(0), 4)
outputs = flax_rnn.rnn(cell, params, jax.numpy.ones((2, 5, 4)), return_sequences=True)
print(outputs.shape, sorted(name for name in sys.modules if name.split(".")[0] == "flax"))
"""


def imports(path: Path) -> set[str]:
    """The full names of the modules, or of what of them, that a file imports."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def test_the_core_runs_where_flax_is_blocked() -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_FLAX],
        cwd=PACKAGE.parent,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[0] == "(2, 5, 3) []"


@pytest.mark.parametrize("path", CORE, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_the_core_imports_only_jax_and_itself(path: Path) -> None:
    names = imports(path)
    allowed = {"jax", "flax_rnn"} | sys.stdlib_module_names
    assert {name for name in names if name.split(".")[0] not in allowed} == set()
    assert {name for name in names if name.split(".")[:2] in [["flax_rnn", face] for face in FACES]} == set()


def test_the_faces_do_not_import_each_other() -> None:
    for face, other in (("linen", "nnx"), ("nnx", "linen")):
        names = {name for path in (PACKAGE / face).glob("*.py") for name in imports(path)}
        assert any(name.startswith("flax_rnn.") for name in names)
        foreign = {name for name in names if name.split(".")[:2] in (["flax_rnn", other], ["flax", other])}
        assert foreign == set()


def test_types_and_version() -> None:
    assert resources.files("flax_rnn").joinpath("py.typed").is_file()
    assert isinstance(flax_rnn.__version__, str)
    assert flax_rnn.__version__


def test_public_names_are_exported_explicitly() -> None:
    names = {
        *("Cell", "apply_cell", "zero_carry", "SimpleRNNCell", "LSTMCell", "LSTMCarry", "GRUCell", "StackedRNNCells"),
        *("DropoutMasks", "SequenceOptions", "rnn", "bidirectional", "merge"),
    }
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    aliases = [a for node in tree.body if isinstance(node, ast.ImportFrom) for a in node.names]
    exported = {alias.asname for alias in aliases if alias.asname == alias.name}
    assert names <= exported
    assert all(hasattr(flax_rnn, name) for name in exported if name)
