"""The plan's figures move as they must and are measured; wrong input is refused by name."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import assume, given
from hypothesis import strategies as st

from sekisho.cli.plan import plan
from sekisho.errors import CannotCheck
from sekisho.params import parse_yaml
from sekisho.plan import (
    NIGHTS,
    Inputs,
    Rates,
    estimate,
    fits,
    hours_of,
    load_prices,
    load_rates,
    shown,
    speedup,
    stretched,
)

REPO = Path(__file__).parents[1]
FILE = {
    "data": {"validate_gb_s": 0.05, "features_gb_s": 0.02, "assemble_gb_s": 0.5},
    "train": {"samples_per_second": {"cpu": 1e5}, "speedup": {"1": 1.0, "2": 1.8}},
}
size, rate = st.floats(0.01, 1e4), st.floats(1e-3, 1e3)
RATES = st.builds(Rates, rate, rate, rate, st.floats(1e3, 1e7), st.floats(0, 1))
INPUTS = st.builds(
    Inputs, data_gb=size, new_gb=size, folds=st.integers(1, 20), seeds=st.integers(1, 20),
    samples=st.floats(1e3, 1e9), nodes=st.integers(1, 64), cores=st.integers(1, 64), ranks=st.just(1),
    interruptions=st.floats(0, 0.5), checkpoint_minutes=st.floats(0.1, 60), restart_minutes=st.floats(0, 30),
    usd_hour=st.floats(0.1, 50), spot_factor=st.floats(0, 1), jpy_per_usd=st.floats(50, 300),
)  # fmt: skip


def figures(asked: Inputs, rates: Rates) -> dict[str, float]:
    return {line.name: line.value for line in estimate(asked, rates)}


@given(INPUTS, RATES)
def test_more_nodes_or_less_data_is_never_slower(asked: Inputs, rates: Rates) -> None:
    hours = hours_of(asked, rates)
    assert hours_of(replace(asked, nodes=asked.nodes + 1), rates) <= hours
    assert hours_of(replace(asked, data_gb=asked.data_gb / 2), rates) <= hours
    assert hours_of(replace(asked, seeds=asked.seeds + 1), rates) >= hours


@given(INPUTS, RATES, st.integers(1, 32))
def test_more_ranks_never_slow_one_run_that_nothing_interrupts(
    asked: Inputs, rates: Rates, ranks: int
) -> None:
    calm = replace(asked, interruptions=0.0, ranks=ranks)
    assert figures(replace(calm, ranks=ranks + 1), rates)["one run"] <= figures(calm, rates)["one run"] * (
        1 + 1e-12
    )


@given(INPUTS, RATES)
def test_without_interruptions_nothing_is_lost_and_more_of_them_lose_more(
    asked: Inputs, rates: Rates
) -> None:
    assert figures(replace(asked, interruptions=0.0), rates)["lost to interruptions"] == 0
    lost = figures(asked, rates)["lost to interruptions"]
    more = figures(replace(asked, interruptions=asked.interruptions + 0.1), rates)["lost to interruptions"]
    assert lost + 1e-9 >= 0
    assert more >= lost - 1e-9


@given(INPUTS, RATES)
def test_the_path_is_the_sum_of_its_steps_and_yen_are_hours_times_price(asked: Inputs, rates: Rates) -> None:
    found = figures(asked, rates)
    steps = sum(found[name] for name in ("validate", "features", "assemble", "train"))
    assert found["critical path"] == pytest.approx(steps)
    on_demand = found["machine-hours"] * asked.usd_hour * asked.jpy_per_usd
    assert found["night, on demand"] == pytest.approx(on_demand)
    assert found["night, spot"] == pytest.approx(on_demand * asked.spot_factor)
    assert found["month, spot"] == pytest.approx(NIGHTS * found["night, spot"])


@given(INPUTS, RATES, st.floats(0.5, 24))
def test_what_fits_ends_in_time_and_more_does_not(asked: Inputs, rates: Rates, hours: float) -> None:
    data, runs = (line.value for line in fits(asked, rates, hours))
    if data > 0:
        assert hours_of(replace(asked, data_gb=data), rates) <= hours * (1 + 1e-9)
    seeds = round(runs / asked.folds)
    if 1 <= seeds < 9_000:
        assert hours_of(replace(asked, seeds=seeds), rates) <= hours
        assert hours_of(replace(asked, seeds=seeds + 1), rates) > hours


def test_a_short_interval_loses_half_of_itself_and_the_restart_per_interruption() -> None:
    """The first order of Daly's formula."""
    assert stretched(1.0, 0.01, 0.1, 0.2) - 1 == pytest.approx(0.01 * (0.05 + 0.2), rel=0.01)
    assert stretched(1.0, 1e6, 1.0, 1.0) == float("inf")


def test_the_measured_speed_up_is_met_and_never_exceeds_its_bound(tmp_path: Path) -> None:
    path = tmp_path / "rates.json"
    path.write_text(json.dumps(FILE))
    rates = load_rates("cpu", path)
    assert speedup(2, rates.serial) == pytest.approx(1.8)
    assert speedup(1000, rates.serial) < 1 / rates.serial


@pytest.mark.parametrize("lack", ["data", "train", "speedup", "device", "zero", "file", "text"])
def test_a_missing_rate_is_an_error_that_names_what_measures_it(lack: str, tmp_path: Path) -> None:
    path, content = tmp_path / "rates.json", json.loads(json.dumps(FILE))
    if lack in content:
        del content[lack]
    if lack == "speedup":
        del content["train"]["speedup"]
    if lack == "zero":
        content["data"]["features_gb_s"] = 0
    if lack != "file":
        path.write_text("no JSON" if lack == "text" else json.dumps(content))
    with pytest.raises(CannotCheck) as caught:
        load_rates("tpu" if lack == "device" else "cpu", path)
    assert "make bench-distributed" in caught.value.remedy


def test_a_device_that_nobody_measured_is_refused_and_those_measured_are_named(tmp_path: Path) -> None:
    """The benchmark would not measure it either."""
    path = tmp_path / "rates.json"
    path.write_text(json.dumps(FILE))
    with pytest.raises(CannotCheck, match=r"--device tpu: (?s:.*)one of cpu, as `make bench-distributed`"):
        load_rates("tpu", path)


def test_prices_are_those_of_the_cost_gate_and_an_unknown_instance_is_refused() -> None:
    usd, spot, jpy = load_prices("g6.12xlarge", REPO / "terraform/cost")
    assert usd > 0
    assert 0 < spot <= 1
    assert jpy > 0
    with pytest.raises(CannotCheck, match="--instance"):
        load_prices("no.such", REPO / "terraform/cost")


@pytest.mark.parametrize(
    "words",
    ["--data-gb -1", "--nodes 0", "--folds 0", "--spot-factor 2", "--checkpoint-minutes 0", "--interruptions -1",  # noqa: E501
     "--jpy-per-usd 0", "--ranks 99", "--data-gb nan", "--hours nan", "--spot-factor nan",
     "--jpy-per-usd nan"],
)  # fmt: skip
def test_a_wrong_value_is_refused_and_the_option_named(words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPO)
    monkeypatch.setattr("sekisho.plan.load_rates", lambda device: Rates(1, 1, 1, 1e5, 0.1))
    result = CliRunner().invoke(plan, words.split())
    assert result.exit_code == 2
    assert words.split()[0] in result.output


@given(INPUTS, RATES, st.floats(0.5, 24))
def test_the_data_size_that_is_shown_fits(asked: Inputs, rates: Rates, hours: float) -> None:
    data = fits(asked, rates, hours)[0].value
    assume(data > 0)
    read = float(shown(data).replace(",", ""))
    assert hours_of(replace(asked, data_gb=read), rates) <= hours * (1 + 1e-9)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.00096036, "0.0009604"),  # three and a half seconds, in hours
        (1.16806, "1.168"),
        (123.456, "123.5"),
        (1234567.8, "1,234,568"),
        (0.0, "0"),
        (-1e-18, "0"),
        (float("inf"), "inf"),
        (9.9996, "10.000"),
    ],
)
def test_small_and_large_figures_are_shown_with_four_digits(value: float, text: str) -> None:
    assert shown(value) == text


def test_the_command_prints_figures_and_formulas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPO)
    monkeypatch.setattr("sekisho.plan.load_rates", lambda device: Rates(0.05, 0.02, 0.5, 1e5, 0.1))
    assert "Daly 2006" in CliRunner().invoke(plan, ["--explain"], catch_exceptions=False).output
    content = json.loads(CliRunner().invoke(plan, ["--json"], catch_exceptions=False).output)
    assert all(line["formula"] for line in content["figures"])


def test_the_machine_that_is_asked_for_by_default_is_one_of_the_nights_with_its_spot_price() -> None:
    defaults = {option.name: option.default for option in plan.params}
    instance = str(defaults["instance"])
    assert load_prices(instance, REPO / "terraform/cost")[1] < 1
    machine = parse_yaml((REPO / "terraform/cost/prices.yaml").read_bytes())["ec2"][instance]
    assert defaults["cores"] == machine["vcpu"]
