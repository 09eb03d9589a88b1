"""The commands: exit codes, what they print, and a reference that is the same bytes every time."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner, Result

from sekisho.cli import main
from sekisho.data.panel import load_panel
from sekisho.errors import CannotCheck, DataError, Refused
from sekisho.monitoring.reference import load_reference, reference_of_last_fold

REPO = Path(__file__).resolve().parents[2]


def sekisho(*words: str | Path, params: Path = REPO / "params.yaml") -> Result:
    return CliRunner().invoke(main, [*map(str, words), "--params", str(params)])


def check(world, predictions: Path, out: Path, *more: str, params: Path = REPO / "params.yaml") -> Result:
    return sekisho(
        "drift",
        "check",
        "--predictions",
        predictions,
        "--release",
        world.release,
        "--out",
        out,
        *(more if "--as-of" in more else ("--as-of", "2026-07-07", *more)),
    )


def test_check_exits_0_and_writes_verdict_page_and_plot(world, predictions: Path, tmp_path: Path) -> None:
    out = tmp_path / "verdicts" / "verdict.json"
    done = check(world, predictions, out)
    assert done.exit_code == 0, done.output
    assert done.output.startswith("ok: 5 sessions, 2026-07-01 to 2026-07-07; drift level ")
    assert json.loads(out.read_text())["state"] == "ok"
    assert sorted(path.suffix for path in out.parent.iterdir()) == [".html", ".json", ".md", ".png"]


def test_check_exits_2_and_says_why_it_cannot_judge(world, predictions: Path, tmp_path: Path) -> None:
    next(predictions.glob("*/*.parquet")).write_bytes(b"PAR1")
    done = check(world, predictions, tmp_path / "verdict.json", "--json")
    assert done.exit_code == 2
    verdict = json.loads(done.output)
    assert (verdict["state"], verdict["levels"], verdict["alarms"]) == ("cannot-judge", {}, [])
    assert "not a finding of no drift" in (tmp_path / "verdict.md").read_text()
    retrain = sekisho("retrain", "--verdict", tmp_path / "verdict.json", "--bars", tmp_path)
    assert retrain.exception is not None


def test_check_exits_1_on_an_alarm(world, predictions: Path, tmp_path: Path) -> None:
    text = (REPO / "params.yaml").read_text()
    loud = tmp_path / "params.yaml"
    loud.write_text(text.replace("max_model_age: 250", "max_model_age: 1"))
    words = [
        "--predictions",
        predictions,
        "--release",
        world.release,
        "--out",
        tmp_path / "v.json",
        "--params",
        loud,
        "--as-of",
        "2026-07-07",
    ]
    done = CliRunner().invoke(main, ["drift", "check", *map(str, words)])
    assert done.exit_code == 1, done.output
    assert done.output.startswith("alarm: age of training window ends")


def test_reference_has_the_same_bytes_every_time_and_scales_as_stated(
    world, training: Path, tmp_path: Path
) -> None:
    out = tmp_path / "build" / "reference.json"
    folders = ("--features", training / "features", "--bars", training / "bars")
    assert sekisho("drift", "reference", *folders, "--out", out).exit_code == 0
    assert out.read_bytes() == (world.release / "content" / "reference.json").read_bytes()
    assert out.read_bytes() == reference_of_last_fold(training / "features", training / "bars", world.params)
    reference = load_reference(out, world.params.monitoring)
    panel = load_panel(training / "bars", reference.first_session, reference.last_session)
    assert reference.symbols == panel.symbols
    assert reference.features[-2:] == ("session_start", "bar_return")
    used = world.calm.panel.session <= np.datetime64(reference.last_session)
    values = world.calm.features[used]
    z = (values - reference.scaler.median[:, :-1]) / reference.scaler.scale[:, :-1]
    assert np.nanmedian(z[..., 0]) == pytest.approx(0.0, abs=0.01)
    assert np.nanpercentile(z[..., 0], 75) - np.nanpercentile(z[..., 0], 25) == pytest.approx(1.349, abs=0.05)
    # clocks do not vary from session to session: nothing to watch
    clock = reference.features.index("time_of_day")
    assert not reference.baseline.watched[:, :, clock].any()
    assert reference.baseline.watched[:, :, 0].all()


def test_too_short_a_history_gives_no_reference(world, training: Path, tmp_path: Path) -> None:
    many = world.params.monitoring.model_copy(update={"min_reference_sessions": 9999})
    params = world.params.model_copy(update={"monitoring": many})
    with pytest.raises(DataError, match="needs 9999"):
        reference_of_last_fold(training / "features", training / "bars", params)


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b"{}", lambda b: b""])
def test_a_damaged_reference_is_not_read(world, tmp_path: Path, damage) -> None:
    path = Path(shutil.copy(world.release / "content" / "reference.json", tmp_path))
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(CannotCheck, match="not a reference"):
        load_reference(path, world.params.monitoring)


def test_check_is_made_as_on_the_evening_of_a_day(world, predictions: Path, tmp_path: Path) -> None:
    done = check(world, predictions, tmp_path / "verdict.json", "--as-of", "2026-07-08")
    assert done.exit_code == 2
    assert "silent since 2026-07-07" in done.output


@pytest.mark.parametrize("pod", ["", "policy-5f7c-x2x1"], ids=["one server's", "several servers'"])
def test_an_edited_log_is_not_traced(predictions: Path, rewrite, tmp_path: Path, pod: str) -> None:
    if pod:
        shutil.copytree(predictions, tmp_path / "pods" / pod)
        predictions = tmp_path / "pods" / pod
    path = sorted(predictions.glob("*/*.parquet"))[-1]
    frame = pl.read_parquet(path)
    words = [
        "audit",
        "trace",
        frame["prediction_id"][0],
        "--predictions",
        str(predictions.parent if pod else predictions),
    ]
    whole = CliRunner().invoke(main, words).exception
    assert isinstance(whole, CannotCheck)  # past the log: there is no such release in this folder
    assert "manifest.json" in str(whole)
    rewrite(path, frame.with_columns(latency_us=pl.col("latency_us") + 1))
    edited = CliRunner().invoke(main, words).exception
    assert isinstance(edited, Refused)
    assert edited.exit_code == 1
    assert f"{path.parent.name}/{path.name}" in str(edited)
