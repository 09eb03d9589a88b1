"""Assemble a release from the reproduced workspace: all or nothing, same commit same bytes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from sekisho import features
from sekisho.checkout import checked_out
from sekisho.errors import CannotCheck, Refused
from sekisho.params import Params
from sekisho.release import audit, judgement
from sekisho.release.dvclock import check_lock, committed, dvc_file, object_versions, sha256_of, track
from sekisho.release.evidence import require_finished
from sekisho.release.manifest import (
    BUNDLES,
    CONTENT,
    MANIFEST,
    ORIGIN,
    CreatedFrom,
    Manifest,
    Rollback,
    canonical,
    list_files,
    parse_manifest,
)
from sekisho.release.onnx_check import check_onnx, replay, run_onnx

COPIES = {  # content file -> where the pipeline leaves it
    "reference.json": "build/reference.json",
    "backtest.json": "metrics/backtest.json",
    "trials.json": "metrics/trials.json",
    "lookahead.json": "metrics/lookahead.json",
    "gate.json": "metrics/gate.json",
    "returns.csv": "metrics/returns.csv",  # what the live account is held against
    "report.md": "build/report/report.md",
    "params.yaml": "params.yaml",
    "dvc.lock": "dvc.lock",
}
NEEDED = [
    "build/train",
    "build/features",
    "build/report",
    "build/reference.json",
    "metrics/backtest.json",
    "metrics/trials.json",
    "metrics/lookahead.json",
    "metrics/gate.json",
    "metrics/returns.csv",
]
DATA = ("data/bars", "build/bars", "build/features")
KEYS = ("symbol", "ts_close", "session")


def export_release(repo: Path, params: Params, actor: str) -> Path:
    """Write ``releases/<model>/<seq>/`` with content, manifest, content.dvc; returns it.

    A rollback's entry that waits for its signatures is returned as it is. Else the candidate is the last
    fold's agent of the first seed. The next seq is the largest so far plus one; when the newest release
    already holds exactly this, it is returned instead of a new one.

    Raises:
        Refused: rules ``gate`` (the candidate failed it), ``gate-judgement`` and ``judge*`` (the verdict is
            not the gate's on these figures), ``onnx-*`` (the model breaks its contract).
        CannotCheck: the workspace is not what the committed dvc.lock says, or something is missing.
    """
    releases = repo / "releases"
    waiting = _waiting_rollback(releases, params.release.model)
    if waiting:
        return waiting
    require_gate(repo / "metrics/gate.json")
    digests = check_lock(repo, NEEDED)
    with audit.locked(releases):
        folder = releases / params.release.model
        folder.mkdir(parents=True, exist_ok=True)
        for stale in folder.glob(".export-*"):  # left by a killed export; the lock says that none is running
            shutil.rmtree(stale)
        fresh = Path(tempfile.mkdtemp(prefix=".export-", dir=folder))
        try:
            fresh.chmod(0o755)
            write_content(repo, params, digests, fresh / CONTENT)
            return publish(releases, params.release.model, fresh, created_from(repo), None, actor)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)


def _waiting_rollback(releases: Path, model: str) -> Path | None:
    """The newest release, if it is a rollback's entry that nobody has signed."""
    existing = releases_of(releases, model)
    newest = existing.get(max(existing, default=0))
    return newest if newest and (newest / ORIGIN).is_dir() and not (newest / BUNDLES).is_dir() else None


def require_gate(path: Path) -> None:
    """Refuse a candidate that did not pass.

    Raises:
        Refused: rule ``gate``; names the failed rules.
        CannotCheck: no verdict.
    """
    gate = _read_json(path)
    failed = [
        f"{rule['rule']} {rule['figure']} (limit {rule['limit']})"
        for rule in gate["rules"]
        if not rule["passed"]
    ]
    if gate["passed"] is not True or failed:
        raise Refused(
            "gate",
            expected="a candidate that passed every rule of the gate",
            found=f"failed: {'; '.join(failed) or 'no rule was judged'}",
            remedy="improve the agent; the report says which figure missed its limit",
        )


def created_from(repo: Path) -> CreatedFrom:
    """The commit that is checked out, its tree, and its dvc.lock."""
    commit, tree = checked_out(repo)
    committed(repo, "dvc.lock")
    return CreatedFrom(commit=commit, tree=tree, dvc_lock_sha256=sha256_of(repo / "dvc.lock"))


def releases_of(releases: Path, model: str) -> dict[int, Path]:
    """Release folders of a model by seq."""
    found = (releases / model).glob("[1-9]*")
    return {int(path.name): path for path in sorted(found) if path.name.isdecimal() and path.is_dir()}


def publish(
    releases: Path, model: str, fresh: Path, created: CreatedFrom, rollback: Rollback | None, actor: str
) -> Path:
    """Number the assembled folder, write its manifest and content.dvc, log it, and move it into place."""
    existing = releases_of(releases, model)
    newest = max(existing, default=0)
    events, _ = audit.read_log(releases)
    _nothing_missing(events, model, newest)
    previous, previous_digest = (
        audit.logged_release(releases, existing[newest], events) if newest else (None, None)
    )
    require_finished(releases, events)
    files = list_files(fresh / CONTENT)
    if previous and (previous.files, previous.created_from, previous.rollback) == (files, created, rollback):
        return existing[newest]
    manifest = Manifest(
        version=1,
        model=model,
        seq=newest + 1,
        previous=previous_digest,
        created_from=created,
        rollback=rollback,
        files=files,
    )
    raw = canonical(manifest.model_dump(mode="json"))
    _, digest = parse_manifest(raw)
    (fresh / MANIFEST).write_bytes(raw)
    (fresh / "content.dvc").write_bytes(dvc_file(track(fresh / CONTENT, CONTENT)))
    (fresh / ".gitignore").write_text("/content\n", encoding="utf-8")
    details: dict[str, Any] = {"commit": created.commit}
    if rollback:
        details |= {"rollback_to": rollback.seq, "reason": rollback.reason}
    event, _ = audit.next_event(
        releases,
        "rollback" if rollback else "export",
        actor,
        model=model,
        seq=manifest.seq,
        manifest_digest=digest,
        details=details,
    )
    audit.append(releases, event)
    target = releases / model / str(manifest.seq)
    os.replace(fresh, target)  # noqa: PTH105 (the one call that tests interrupt)
    return target


def _nothing_missing(events: list[audit.Event], model: str, newest: int) -> None:
    """The newest release that was ever signed is here; else its seq would be given a second time."""
    signed = audit.signed_releases(events)
    last = max((seq for name, seq in signed if name == model), default=0)
    if last > newest:
        raise Refused(
            "release-missing",
            expected=f"{model}/{last} of sha256 {signed[model, last]}, which the log has as signed",
            found=f"{model}/{newest} as the newest" if newest else "no release",
            remedy="restore the release from git; a release is never removed",
        )


def write_content(repo: Path, params: Params, digests: dict[str, str], content: Path) -> None:
    """Every content file of the candidate's release."""
    fold = max(
        (int(path.name.removeprefix("fold-")) for path in (repo / "build/train").glob("fold-*")), default=None
    )
    if fold is None:
        raise CannotCheck("build/train: no fold there", remedy="run `dvc repro`, then export")
    seed = params.train.seeds[0]
    candidate = repo / f"build/train/fold-{fold}/seed-{seed}"
    run = _read_json(candidate / "run.json")
    windows: dict[str, list[str]] = run["windows"]
    content.mkdir()
    for name, source in COPIES.items():
        _copy(repo / source, content / name)
    _copy(candidate / "model.onnx", content / "model.onnx")
    if run["onnx_sha256"] != sha256_of(content / "model.onnx"):
        raise CannotCheck(
            f"{candidate}: model.onnx is not the one of run.json", remedy="run `dvc repro train`"
        )
    _check_judged(repo, seed, _read_json(content / "backtest.json"))
    observation = describe_observation(repo / "build/features", params, windows["train"])
    _write_json(content / "observation.json", observation)
    shape = (len(observation["symbols"]), len(observation["features"]))
    opset = check_onnx(content / "model.onnx", *shape)
    rows = validation_rows(repo / "build/features", windows["validation"], shape, params.release.golden_rows)
    inputs, outputs = run_onnx(content / "model.onnx", rows, observation["limits"])
    _write_json(content / "golden.json", {"observation": inputs.tolist(), "target_weights": outputs.tolist()})
    tested = list(complete_bars(repo / "build/features", windows["test"], shape))
    replayed = replay(content / "model.onnx", tested, observation["limits"])
    lineage = {
        "candidate": {"fold": fold, "seed": seed, "opset": opset},
        "replayed_bars": replayed,
        "seeds": params.train.seeds,
        "training": {key: run.get(key) for key in ("torch", "device", "threads")},
        "logs": _logs(repo),
        "judge": {"md5": judgement.judge_md5(), "limits": params.gate.model_dump(mode="json")},
        "windows": {name: windows[name] for name in ("train", "validation", "test")},
        "range": _range(repo / "build/features"),
        "data": [_data_set(repo, path, digests[path]) for path in DATA if path in digests],
        "requirements": {
            f"requirements/{path.name}": sha256_of(path)
            for path in sorted((repo / "requirements").glob("*.txt"))
        },
    }
    _write_json(content / "lineage.json", lineage)
    judgement.require_judged(content)


def _check_judged(repo: Path, seed: int, backtest: dict[str, Any]) -> None:
    """The agents here are those whose figures the gate judged."""
    folds = sorted((repo / "build/train").glob("fold-*"), key=lambda p: int(p.name.removeprefix("fold-")))
    found = judgement.candidate_digest([fold / f"seed-{seed}/model.onnx" for fold in folds])
    claimed = (backtest.get("opening") or {}).get("candidate")
    if claimed != found:
        raise Refused(
            "judged-candidate",
            expected=f"a backtest of the agents in build/train, {found}",
            found=f"one of {claimed}",
            remedy="run `dvc repro`, commit, then export",
        )


def describe_observation(folder: Path, params: Params, window: list[str]) -> dict[str, Any]:
    """What the model expects: order of symbols and features, limits, and the training window's ranges."""
    names = features.feature_names(params.features)
    frame = _features(folder, window)
    if (found := frame.collect_schema().names()) != [*KEYS, *names]:
        raise CannotCheck(
            f"{folder}: columns {found} are not {[*KEYS, *names]}", remedy="run `dvc repro features`"
        )
    lows, highs = (
        [getattr(pl.col(name).fill_nan(None), what)().alias(f"{what} {name}") for name in names]
        for what in ("min", "max")
    )
    table = frame.group_by("symbol").agg(*lows, *highs).sort("symbol").collect()
    if table.is_empty() or any(table.null_count().row(0)):
        raise CannotCheck(
            f"{folder}: no features from {window[0]} to {window[1]}", remedy="run `dvc repro features`"
        )
    market = params.market
    return {
        "symbols": table["symbol"].to_list(),
        "features": list(names),
        "lookback": features.lookback(params.features),  # bars, the current one included
        "calendar": params.data.calendar,
        "bar": params.data.bar,
        "limits": {
            "max_gross": market.max_gross,
            "max_net": market.max_net,
            "max_asset": market.max_asset,
            "max_turnover": market.max_turnover,
        },
        "ranges": {
            "low": table.select(f"min {name}" for name in names).to_numpy().tolist(),
            "high": table.select(f"max {name}" for name in names).to_numpy().tolist(),
        },
    }


def validation_rows(
    folder: Path, window: list[str], shape: tuple[int, int], count: int
) -> npt.NDArray[np.float32]:
    """``(count, A, F)`` complete feature rows, evenly spread over the window."""
    bars = np.concatenate(list(complete_bars(folder, window, shape)))
    picks = np.unique(np.linspace(0, len(bars) - 1, count).astype(int))
    rows: npt.NDArray[np.float32] = bars[picks]
    return rows


def complete_bars(
    folder: Path, window: list[str], shape: tuple[int, int]
) -> Iterator[npt.NDArray[np.float32]]:
    """``(N, A, F)`` feature rows of the window in time's order, a block a session; incomplete ones left out.

    Raises:
        CannotCheck: a bar lacks a symbol, or no bar is complete.
    """
    table = _features(folder, window).sort("ts_close", "symbol").collect()
    found = False
    for part in table.partition_by("session", maintain_order=True):
        values = part.drop(KEYS).cast(pl.Float32).to_numpy()
        if len(values) % shape[0]:
            raise CannotCheck(f"{folder}: not every bar has every symbol", remedy="run `dvc repro features`")
        block: npt.NDArray[np.float32] = values.reshape(-1, *shape)
        block = block[np.isfinite(block).all(axis=(1, 2))]
        found = found or bool(len(block))
        yield block
    if not found:
        raise CannotCheck(
            f"{folder}: no complete bar from {window[0]} to {window[1]}", remedy="run `dvc repro`"
        )


def _features(folder: Path, window: list[str]) -> pl.LazyFrame:
    first, last = (pl.lit(day).str.to_date() for day in window)
    files = sorted(folder.glob("*.parquet"))
    if not files:
        raise CannotCheck(f"{folder}: no Parquet file there", remedy="run `dvc pull`, then export")
    return pl.scan_parquet(files).filter(pl.col("session").is_between(first, last))


def _data_set(repo: Path, path: str, md5: str) -> dict[str, Any]:
    # the raw data need not be here; where they are, our own digest stands beside DVC's
    present = (repo / path).exists() and track(repo / path, path).md5 == md5
    sha256 = sha256_of(repo / path) if present else None
    return {"path": path, "dvc_md5": md5, "sha256": sha256, "versions": object_versions(repo, path)}


def _range(folder: Path) -> dict[str, str]:
    """First and last session that the features hold."""
    span = pl.scan_parquet(sorted(folder.glob("*.parquet"))).select(
        first=pl.col("session").min(), last=pl.col("session").max()
    )
    first, last = span.collect().row(0)
    return {"first": str(first), "last": str(last)}


def _logs(repo: Path) -> dict[str, str]:
    """Digest of every training run's log.

    Raises:
        CannotCheck: no run has one.
    """
    found = sorted((repo / "build/train").glob("*/*/curve.csv"))
    if not found:
        raise CannotCheck("build/train: no curve.csv there", remedy="run `dvc repro train`, then export")
    return {path.relative_to(repo).as_posix(): sha256_of(path) for path in found}


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CannotCheck(f"{path}: {error}", remedy="run `dvc repro`, then export") from error


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n", encoding="utf-8")


def _copy(source: Path, target: Path) -> None:
    try:
        target.write_bytes(source.read_bytes())
    except OSError as error:
        raise CannotCheck(f"{source}: {error.strerror}", remedy="run `dvc repro`, then export") from error


def store_in_dvc(folder: Path) -> None:
    """Put the content into DVC's cache, so that `dvc push` finds it.

    Raises:
        CannotCheck: DVC is missing or fails.
    """

    try:
        subprocess.run(
            ["dvc", "commit", "--quiet", "--force", str(folder / "content.dvc")],
            check=True,
            capture_output=True,
        )
    except (FileNotFoundError, subprocess.CalledProcessError) as error:
        message = getattr(error, "stderr", b"") or b"dvc is not installed"
        raise CannotCheck(
            f"dvc commit: {message.decode(errors='replace').strip()}", remedy="run it again"
        ) from error
