"""Published models, moved as a whole, against the code of their own packages.

The pages for those who come from elsewhere show how a model is moved; here what they make is compared with what the
authors' own code computes. No package is imported as a whole, since each asks for others that its model does not need.
"""

import ast
import json
import os
import re
import subprocess
import sys
import types
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytestmark = pytest.mark.full

DOCS = Path(__file__).parent.parent / "docs"


def folder_of(package: str) -> Path:
    """Where an installed package lies, without importing it; the test is skipped where it is not installed."""
    try:
        return Path(str(distribution(package).locate_file(package.lower())))
    except PackageNotFoundError:
        pytest.skip(f"{package} is not installed: pip install --no-deps {package}")


def run_model(page: str) -> dict[str, Any]:
    """The names that the section about a whole model leaves behind."""
    names: dict[str, Any] = {"__name__": "__main__"}
    (section,) = [part for part in (DOCS / page).read_text().split("\n## ") if part.startswith("A whole model")]
    for code in re.findall(r"^```python\n(.*?)^```", section, re.DOTALL | re.MULTILINE):
        exec(compile(code, page, "exec"), names)
    return names


def class_in(path: Path, name: str, names: dict[str, Any]) -> Any:
    """A class of a module, without whatever else the module does."""
    (node,) = [node for node in ast.parse(path.read_text()).body if getattr(node, "name", None) == name]
    exec(compile(ast.Module([node], []), str(path), "exec"), names)
    return names[name]


# Keras 2 runs beside TensorFlow alone, and reads the environment when it is imported.
TEXTGENRNN = """
import json, sys
import numpy as np
from textgenrnn.model import textgenrnn_model

config = {"rnn_layers": 2, "rnn_size": 128, "rnn_bidirectional": False, "max_length": 40, "dim_embeddings": 100}
model = textgenrnn_model(465, config, weights_path=sys.argv[1])
print(json.dumps(model.predict(np.array(json.loads(sys.argv[2])), verbose=0).tolist()))
"""


@pytest.mark.full
def test_textgenrnn(tmp_path: Path) -> None:
    folder = folder_of("textgenrnn")
    if not find_spec("tf_keras") or not find_spec("tensorflow"):
        pytest.skip("tf_keras and tensorflow, which the package runs with, are not installed")
    (tmp_path / "textgenrnn").mkdir()
    (tmp_path / "textgenrnn" / "__init__.py").touch()  # theirs asks for what newer versions of TensorFlow do not have
    for name in ("model.py", "AttentionWeightedAverage.py"):
        (tmp_path / "textgenrnn" / name).write_text((folder / name).read_text())
    ids = np.random.default_rng(0).integers(0, 465, (3, 40))
    ids[0, :25] = 0  # as a text begins
    paths = os.pathsep.join([str(tmp_path), *sys.path])
    program = [sys.executable, "-c", TEXTGENRNN, str(folder / "textgenrnn_weights.hdf5"), json.dumps(ids.tolist())]
    environment = os.environ | {"PYTHONPATH": paths, "TF_USE_LEGACY_KERAS": "1", "CUDA_VISIBLE_DEVICES": ""}
    result = subprocess.run(program, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    expected = np.array(json.loads(result.stdout.splitlines()[-1]))
    # Letters at random: the attention is softmax of up to 56, so rounding in float32 is that large.
    np.testing.assert_allclose(run_model("from-keras.md")["writer"](ids), expected, atol=5e-4)
    assert np.abs(expected[0] - expected[1]).max() > 1e-2


def test_resemblyzer(monkeypatch: pytest.MonkeyPatch) -> None:
    torch: Any = pytest.importorskip("torch")
    folder = folder_of("Resemblyzer")
    package = types.ModuleType("resemblyzer")
    package.__path__ = [str(folder)]
    # It reads sounds, with libraries of their own; the model begins after that.
    for name, module in {"resemblyzer": package, "resemblyzer.audio": types.ModuleType("resemblyzer.audio")}.items():
        monkeypatch.setitem(sys.modules, name, module)
    package.audio = sys.modules["resemblyzer.audio"]  # type: ignore[attr-defined]
    from resemblyzer.voice_encoder import VoiceEncoder  # type: ignore[import-not-found]

    theirs = VoiceEncoder("cpu", verbose=False)
    mels = np.random.default_rng(0).uniform(0, 0.1, (3, 160, 40)).astype(np.float32)
    with torch.no_grad():
        expected = theirs(torch.from_numpy(mels)).numpy()
    encoder = run_model("from-torch.md")["encoder"]
    np.testing.assert_allclose(encoder(mels), expected, atol=1e-5)
    assert np.abs(expected - expected[:1]).max() > 1e-2


def test_g2p() -> None:
    folder = folder_of("g2p_en")
    module = {"np": np, "os": os, "dirname": str(folder)}
    nothing: Any = {"cmudict": types.SimpleNamespace(dict=dict), "construct_homograph_dictionary": dict}
    theirs = class_in(folder / "g2p.py", "G2p", module | nothing)()
    page = run_model("from-flax.md")
    ours, params = page["ours"], page["moved"]
    for word in ("recurrent", "forgetting", "unrolled"):
        letters = np.array([[*map(theirs.g2idx.__getitem__, word), theirs.g2idx["</s>"]]])
        said = [theirs.p2idx[sound] for sound in theirs.predict(word)]
        sounds = np.array([[theirs.p2idx["<s>"], *said]])
        logits = ours.apply({"params": params}, letters, sounds)[0]
        assert [*logits.argmax(-1)] == [*said, theirs.p2idx["</s>"]]

        state = theirs.gru(theirs.encode(word), len(word) + 1, *weights_of(theirs, "enc"))[:, -1]
        states = theirs.gru(np.take(theirs.dec_emb, sounds, 0), sounds.size, *weights_of(theirs, "dec"), h0=state)
        np.testing.assert_allclose(logits, states[0] @ theirs.fc_w.T + theirs.fc_b, atol=1e-4)


def weights_of(model: Any, part: str) -> list[Any]:
    return [getattr(model, f"{part}_{name}") for name in ("w_ih", "w_hh", "b_ih", "b_hh")]
