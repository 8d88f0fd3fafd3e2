"""What sharding costs: how exchanges are counted, what is calculated, and a tiny comparison from end to end."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from benchmarks import collectives, communication, pages, sharding, units
from benchmarks.cases import Size
from benchmarks.communication import MODELS, Machine

PROGRAM = """HloModule jit_step

%add (x: f32[], y: f32[]) -> f32[] {
  %x = f32[] parameter(0)
  %y = f32[] parameter(1)
  ROOT %s = f32[] add(%x, %y)
}

%body (t: (s32[], f32[8,4])) -> (s32[], f32[8,4]) {
  %t = (s32[], f32[8,4]{1,0}) parameter(0)
  %h = f32[8,2]{1,0} get-tuple-element(%t), index=1
  %g = f32[8,4]{0,1} all-gather(%h), channel_id=1, replica_groups={{0,1},{2,3}}, dimensions={1}
  %nothing = f32[8,4]{0,1} all-gather(%g), channel_id=1, replica_groups={{0},{1}}, dimensions={1}
  ROOT %all = (s32[], f32[8,4]{1,0}) tuple(%i, %g)
}

ENTRY %main (p: f32[8,2]) -> f32[8,4] {
  %p = f32[8,2]{1,0} parameter(0)
  %w = (s32[], f32[8,4]{1,0}) while(%p), condition=%c, body=%body, backend_config={"known_trip_count":{"n":"40"}}
  %r = (f32[4]{0}, /*index=1*/bf16[3,2]{1,0}) all-reduce(%a, %b), replica_groups=[1,4]<=[4], to_apply=%add
  %s = f32[4]{0} all-reduce(%a), replica_groups=mesh['a'=1,'b'=4] {'a'}, to_apply=%add
  %start = (f32[2]{0}, f32[4]{0}) custom-call(%a), custom_call_target="all-reduce(x)"
  ROOT %y = f32[8,4]{1,0} get-tuple-element(%w), index=1
}
"""


def test_exchanges_of_a_loop_count_as_often_as_it_runs_and_those_with_nobody_do_not() -> None:
    found = collectives.exchanged(PROGRAM)
    assert found.times == {"all-gather": 40, "all-reduce": 1}
    assert found.bytes == {"all-gather": 40 * 8 * 4 * 4, "all-reduce": 4 * 4 + 3 * 2 * 2}


def test_an_exchange_in_a_loop_of_unknown_length_is_refused() -> None:
    with pytest.raises(ValueError, match="known trip count"):
        collectives.exchanged(PROGRAM.replace("known_trip_count", "unknown"))


def test_what_xla_compiles_is_read() -> None:
    mesh = jax.make_mesh((2,), ("data",), (AxisType.Auto,), devices=jax.devices()[:2])

    @jax.jit
    def run(x: Any) -> Any:
        total = jax.shard_map(lambda x: jax.lax.psum(x, "data"), mesh=mesh, in_specs=P("data"), out_specs=P())
        return jax.lax.fori_loop(0, 7, lambda step, y: y + total(x * step), jnp.zeros((2, 5)))

    text = run.lower(jax.ShapeDtypeStruct((4, 5), jnp.float32, sharding=NamedSharding(mesh, P("data")))).compile()
    found = collectives.exchanged(text.as_text() or "")
    assert found.times == {"all-reduce": 7} and found.bytes == {"all-reduce": 7 * 2 * 5 * 4}


def test_sums_approach_twice_the_bytes_over_the_slowest_link() -> None:
    machine = Machine(reached=1.0)
    for gpus, bandwidth in ((2, 450e9), (8, 450e9 * 4 / 7)):
        assert communication.adding(1e15, gpus, machine) == pytest.approx(1e15 / bandwidth, rel=1e-6)
    # Of 64 nodes each GPU has an eighth to add up over the network.
    inside, between = 2e15 * 7 / 8 / 450e9, 2e15 / 8 * 63 / 64 / 50e9
    assert communication.adding(1e15, 512, machine) == pytest.approx(inside + between, rel=1e-6)


def test_a_step_of_many_rows_takes_its_operations_and_one_of_few_its_launches() -> None:
    machine = Machine(reached=1.0)
    imdb = MODELS[0]
    assert imdb.parameters == 1_280_000 + 131_584 + 129
    many = dataclasses.replace(imdb, rows=2**20, steps=100)
    flops = 24 * 2 * 128**2 * many.rows * many.steps
    assert communication.computing(many, machine) == pytest.approx(flops / machine.flops, rel=1e-2)
    few = communication.computing(dataclasses.replace(imdb, rows=1, steps=10_000), machine)
    assert few == pytest.approx(10_000 * sum(communication.LAUNCHES) * machine.launch, rel=1e-2)


def test_shared_units_pay_where_weights_have_to_be_read_and_not_where_the_cache_holds_them() -> None:
    def seconds(model: communication.Model, share: int) -> float:
        return sum(communication.cost(dataclasses.replace(model, share=share), 8, Machine()))

    medium, few_rows = MODELS[1], MODELS[3]
    assert seconds(medium, 8) > seconds(medium, 1)
    assert seconds(few_rows, 8) < seconds(few_rows, 1)


def test_the_page_has_what_is_calculated(capsys: pytest.CaptureFixture[str]) -> None:
    page = pages.SCALING.read_text()
    assert pages.section(communication.COMMAND, communication.section()) in page
    costs = [communication.cost(model, gpus, Machine()) for model in MODELS for gpus in communication.GPUS]
    parts = [round(100 * talk / (compute + talk)) for compute, talk in costs]
    assert f"is {min(parts)} to {max(parts)} % of it" in page
    communication.main([])
    assert capsys.readouterr().out.strip() == communication.section().strip()


def test_the_page_has_what_was_measured() -> None:
    page, everything = pages.SCALING.read_text(), json.loads((sharding.RESULTS / "sharding.json").read_text())
    sections = sharding.sections(everything)
    assert all(pages.section(called, text) in page for called, text in sections.items())
    measured = sections["python -m benchmarks.sharding"]
    assert measured.count("| 1 device |") == len(everything["results"]) >= 2
    assert "Intel" in everything["machine"]["processor"] and "two cores" in page and everything["machine"]["cores"] == 2


def test_a_section_takes_the_place_of_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / "page.md"
    path.write_text("a\n<!-- one: begin --> old <!-- end -->\nb\n<!-- two: begin -->\nkept\n<!-- end -->\n")
    pages.insert(path, "one", "new\n")
    pages.insert(path, "one", "newer\n")
    assert path.read_text() == (
        "a\n<!-- one: begin -->\n\nnewer\n\n<!-- end -->\nb\n<!-- two: begin -->\nkept\n<!-- end -->\n"
    )
    with pytest.raises(ValueError, match="expected one place for three"):
        pages.insert(path, "three", "new")


def test_who_cannot_run_is_listed_with_the_reason() -> None:
    step = {"4": {"median_ms": 2.0, "ratio": 1.0}}
    row = {"devices": "1 device", "step": step, "sum": {"median_ms": 0.5}, "exchanged": {"times": {}, "bytes": {}}}
    lines = sharding.table({"cell": "gru", "contestants": [row], "absent": {"2 processes": "died"}}).splitlines()
    assert lines[2] == "| gru | 1 device | 2.00 (1.00) | 0.500 | 0 | 0 |"
    assert lines[3] == "| gru | 2 processes | - | - | - | did not run: died |"


@pytest.mark.full
def test_a_quick_look_at_sharding(capsys: pytest.CaptureFixture[str]) -> None:
    sharding.main(["--quick", "--cell", "simple_rnn"])
    one, two = capsys.readouterr().out.splitlines()[2:4]
    assert one.startswith("| simple_rnn | 1 device |") and one.endswith("| 0 | 0 |")
    # All gradients, and the sums of loss, correct answers and reviews, in float32.
    cells = [cell.strip() for cell in two.strip("|").split("|")]
    assert cells[1] == "2 devices" and int(cells[-1].replace(",", "")) >= 4 * (20 * 8 + 2 * 8 * 8 + 8 + 9 + 3)


@pytest.mark.full
def test_shared_units_exchange_the_states_once_in_a_step_each_way() -> None:
    size = Size(4, 5, 8, 8)
    for row in units.count(size):
        if row["way"] == units.WAYS[-1]:
            assert row["times"]["all-gather"] == 5 + 1 and row["times"]["reduce-scatter"] == 5
            assert row["gradients"] * units.DEVICES == sum(
                4 * 8 * {"LSTMCell": 4, "GRUCell": 3}[row["cell"]] * rows
                for rows in (8, 8, 1 if row["cell"] == "LSTMCell" else 2)
            )
        elif row["way"] == units.WAYS[0]:
            assert sum(row["times"].values()) < 10
        else:
            assert sum(row["times"].values()) > 10 * 5
