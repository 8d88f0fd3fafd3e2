"""Dtypes of the benchmarks, what products each contestant takes for them, and what torch asks of cuDNN."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import cases, contestants
from benchmarks.cases import Case
from benchmarks.contestants import with_jax
from benchmarks.contestants.cudnn_algorithm import PERSISTENT, SMALL_H, STANDARD, Device, algorithm, in_words

TINY = Case("lstm", *cases.TINY)
H100, A30, VOLTA, TURING = Device(9, 0, 132), Device(8, 0, 56), Device(7, 0, 80), Device(7, 5, 68)


@pytest.mark.parametrize("dtype", cases.DTYPES)
def test_numbers_have_the_digits_of_their_dtype(dtype: str) -> None:
    case = replace(TINY, dtype=dtype)
    array = case.inputs()
    assert array.dtype == np.float32
    np.testing.assert_array_equal(np.asarray(jnp.asarray(array, case.array_dtype), np.float32), array)
    exact = replace(TINY, dtype="float32").inputs()
    assert np.array_equal(array, exact) == (dtype in ("float32", "tf32"))


def test_a_cpu_has_no_dtype_that_is_another_under_a_second_name() -> None:
    assert cases.dtypes("cpu") == ("float32", "float16", "bfloat16") and "tf32" in cases.dtypes("gpu")
    assert {case.dtype for case in cases.full("cpu")} == {*cases.dtypes("cpu")}


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [("float32", "HIGHEST"), ("tf32", "HIGH"), ("bfloat16", None), ("float16", None)],
)
def test_products_on_jax_are_those_of_the_case(monkeypatch: pytest.MonkeyPatch, dtype: str, expected: str) -> None:
    case = replace(TINY, dtype=dtype)
    monkeypatch.setattr(with_jax.jax, "default_backend", lambda: "gpu")
    function = with_jax.compiled(case, lambda params, x, extras: x @ params)
    x, cotangent = with_jax.on_device(case, (case.inputs(), case.cotangent()))
    text = str(jax.make_jaxpr(function)(with_jax.on_device(case, np.eye(16)), x, cotangent, None))
    assert text.count("dot_general[") == 3, "forward, and the gradients of both operands"
    assert text.count(f"precision=(Precision.{expected}, Precision.{expected})") == (3 if expected else 0)


def test_products_on_torch_are_those_of_the_case_whichever_was_built_last() -> None:
    torch = pytest.importorskip("torch")
    contestant = contestants.load("torch")
    runs = {dtype: contestant.build(replace(TINY, dtype=dtype)) for dtype in ("tf32", "float32")}
    for dtype, run in [*runs.items(), *reversed(runs.items())]:
        run.call()
        flags: Any = (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32)
        assert flags == (dtype == "tf32",) * 2


@pytest.mark.parametrize(
    ("name", "dtype", "tolerance"),
    [("flax-nnx", "tf32", 1e-4), ("flax-nnx", "float16", 0.01), ("flax-linen", "bfloat16", 0.05)],
)
def test_contestants_agree_in_each_dtype(name: str, dtype: str, tolerance: float) -> None:
    case = replace(TINY, cell="gru", dtype=dtype)

    def outputs(name: str) -> np.ndarray:
        run = contestants.load(name).build(case)
        return run.read(run.call())["inputs"]

    np.testing.assert_allclose(outputs(name), outputs("flax-rnn"), atol=tolerance)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [({"dtype": "bfloat16"}, "float32 and TF32 only"), ({"dtype": "tf32", "cell": "gru"}, "LSTMs only")],
)
def test_what_cudnn_of_jax_declines(monkeypatch: pytest.MonkeyPatch, changes: dict[str, str], reason: str) -> None:
    contestant = contestants.load("jax-cudnn")
    monkeypatch.setattr(contestant, "platform", "gpu")
    with pytest.raises(contestants.Absent, match=reason):
        contestant.build(replace(TINY, **changes))


@pytest.mark.parametrize(
    ("changes", "device", "expected"),
    [
        ({}, H100, (SMALL_H, SMALL_H)),
        ({"units": 160}, H100, (SMALL_H, STANDARD)),
        ({"units": 256}, H100, (STANDARD, STANDARD)),
        ({"units": 256, "dtype": "bfloat16"}, H100, (STANDARD, STANDARD)),
        ({"units": 256, "dtype": "float16"}, H100, (PERSISTENT, PERSISTENT)),
        ({"units": 256, "dtype": "float16", "cell": "gru"}, H100, (STANDARD, STANDARD)),
        ({"units": 256, "dtype": "float16", "batch": 36}, H100, (STANDARD, STANDARD)),
        ({"units": 256, "dtype": "float16", "batch": 256}, H100, (STANDARD, STANDARD)),
        ({"units": 256, "dtype": "float16", "features": 100}, H100, (STANDARD, STANDARD)),
        ({"units": 256, "dtype": "float16", "variant": "stack"}, H100, (STANDARD, STANDARD)),
        ({"units": 256, "dtype": "float16", "variant": "bidirectional"}, H100, (STANDARD, STANDARD)),
        ({"units": 256, "dtype": "float16"}, A30, (STANDARD, STANDARD)),
        ({"units": 256, "dtype": "float16"}, TURING, (STANDARD, STANDARD)),
        ({"units": 256, "dtype": "float16"}, VOLTA, (PERSISTENT, PERSISTENT)),
        ({"units": 256, "dtype": "float16", "steps": 9}, VOLTA, (STANDARD, STANDARD)),
        ({"units": 256, "cell": "simple_rnn"}, H100, (SMALL_H, SMALL_H)),
        ({"units": 384, "cell": "simple_rnn"}, H100, (SMALL_H, STANDARD)),
        ({"units": 1024, "cell": "simple_rnn", "dtype": "float16"}, H100, (PERSISTENT, PERSISTENT)),
        ({"units": 1024, "cell": "simple_rnn", "dtype": "float16", "batch": 96}, H100, (STANDARD, STANDARD)),
    ],
)
def test_the_algorithm_of_cudnn(changes: dict[str, Any], device: Device, expected: tuple[str, str]) -> None:
    case = replace(Case("lstm", 32, 80, 128, 128), **changes)
    assert (algorithm(case, device, "forward"), algorithm(case, device, "backward")) == expected


def test_the_algorithm_in_words() -> None:
    case = Case("lstm", 32, 80, 128, 160)
    assert in_words(case, H100) == "cuDNN: persistent, small H forward; standard backward"
    assert in_words(replace(case, phase="forward"), H100) == "cuDNN: persistent, small H"
