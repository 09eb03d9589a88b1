"""Judge again: the gate's verdict in a release must be what the gate makes of the release's own figures.

A verdict is only a file; whoever can write ``backtest.json`` can write ``gate.json`` beside it. The limits
and the digest of the gate's code stand in ``lineage.json``, so that judging again costs a verifier no YAML;
export and sign compare them with params.yaml and dvc.lock.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from sekisho.backtest import gate
from sekisho.backtest.files import require_returns
from sekisho.dvc_files import file_md5
from sekisho.errors import BacktestError, CannotCheck, Refused
from sekisho.params import GateParams, load_params, parse_yaml
from sekisho.release.manifest import Manifest

JUDGE = "src/sekisho/backtest/gate.py"
INPUTS = ("backtest", "trials", "lookahead")  # metrics/<name>.json, in the order of the gate's arguments
AGAIN = "run `dvc repro gate report`, commit, export again; do not edit the verdict"


def judge_md5() -> str:
    """Digest of the gate's code that runs here, as DVC names it."""
    return file_md5(Path(gate.__file__))


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object of a release's content, as it was exported.

    Raises:
        CannotCheck: missing, or not a JSON object.
    """
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise CannotCheck(f"{path}: {error}", remedy="export the release again") from error
    if not isinstance(value, dict):
        raise CannotCheck(f"{path}: not a JSON object", remedy="export the release again")
    return value


def read_judged(content: Path) -> dict[str, Any]:
    """What the gate judged: each of :data:`INPUTS` by name.

    Raises:
        CannotCheck: a file is missing or not a JSON object.
    """
    return {name: read_object(content / f"{name}.json") for name in INPUTS}


def judge_again(judged: dict[str, Any], verdict: dict[str, Any], judge: dict[str, Any]) -> bool:
    """Refuse a verdict that the gate would not give; False where another version of the gate gave it.

    A verdict of another version cannot be given again here: it was checked when it was signed, and a stricter
    gate of today does not undo what was approved then.

    Args:
        judged: as :func:`read_judged` gives it.
        judge: ``md5`` of the gate's code and its ``limits``, from lineage.json.

    Raises:
        Refused: rule ``gate-judgement``; names the gate's rule.
        CannotCheck: figures or limits are missing.
    """
    try:
        if judge["md5"] != judge_md5():
            return False
        limits = GateParams.model_validate(judge["limits"])
        rules = gate.judge(judged["backtest"], judged["trials"], judged["lookahead"], limits)
        again = json.loads(json.dumps(gate.verdict(rules)))
    except (BacktestError, ValidationError, KeyError, TypeError) as error:
        raise CannotCheck(f"the gate cannot judge this release again: {error}", remedy=AGAIN) from error
    for expected, found in zip(again["rules"], verdict.get("rules") or [], strict=False):
        if expected != found:
            raise Refused("gate-judgement", expected=_short(expected), found=_short(found), remedy=AGAIN)
    if again != verdict:
        raise Refused(
            "gate-judgement",
            expected=f"{len(again['rules'])} rules, passed: {again['passed']}",
            found=f"{len(verdict.get('rules') or [])} rules, passed: {verdict.get('passed')}",
            remedy=AGAIN,
        )
    return True


def check_sources(content: Path, lineage: dict[str, Any], backtest: dict[str, Any]) -> None:
    """What ``lineage.json`` says of judge, judged and seeds is what params.yaml and dvc.lock say.

    Raises:
        Refused: rules ``judge-limits``, ``judge-code``, ``judged-training``, ``trained-seeds``.
        CannotCheck: a file or an entry is missing.
    """
    try:
        params = parse_yaml((content / "params.yaml").read_bytes())
        stages = parse_yaml((content / "dvc.lock").read_bytes())["stages"]
        code = {entry["path"]: entry["md5"] for entry in stages["gate"]["deps"]}[JUDGE]
        trained = {entry["path"]: entry["md5"] for entry in stages["train"]["outs"]}["build/train"]
        opening = backtest["opening"]
        pairs = {
            "trained-seeds": (params["train"]["seeds"], lineage["seeds"]),
            "judge-limits": (params["gate"], lineage["judge"]["limits"]),
            "judge-code": (code, lineage["judge"]["md5"]),
            "judged-training": (trained, opening["train"]),
        }
    except (OSError, KeyError, TypeError) as error:
        raise CannotCheck(f"{content}: {error!r} is missing", remedy=AGAIN) from error
    for rule, (expected, found) in pairs.items():
        if expected != found:
            raise Refused(rule, expected=expected, found=found, remedy=AGAIN)


def require_judged(content: Path) -> None:
    """The gate as it is here gives the release's own verdict, from the release's own figures and limits.

    Raises:
        Refused: rule ``returns-digest``; as :func:`check_sources` and :func:`judge_again`.
        CannotCheck: another version of the gate gave the verdict, or something is missing.
    """
    lineage, judged = read_object(content / "lineage.json"), read_judged(content)
    try:
        found = hashlib.sha256((content / "returns.csv").read_bytes()).hexdigest()
    except OSError as error:
        raise CannotCheck(f"{content / 'returns.csv'}: {error}", remedy="export the release again") from error
    require_returns(judged["backtest"], found, "returns.csv")
    check_sources(content, lineage, judged["backtest"])
    if not judge_again(judged, read_object(content / "gate.json"), lineage["judge"]):
        raise CannotCheck(
            "the verdict was given by another version of the gate than the one installed here",
            remedy="install the package from this checkout, then export and sign",
        )


def recount(repo: Path, manifest: Manifest) -> None:
    """Judge once more with the trials that git knows now: more may have been made since the candidate passed.

    Raises:
        Refused: rules ``recount-figures`` (the repository's metrics are not the release's), ``gate-recount``.
        CannotCheck: the history or the metrics cannot be read.
    """
    from sekisho.backtest.recheck import recheck

    for name in INPUTS:
        found = hashlib.sha256((repo / f"metrics/{name}.json").read_bytes()).hexdigest()
        if found != manifest.sha256(f"{name}.json"):
            raise Refused(
                "recount-figures",
                expected=f"metrics/{name}.json of sha256 {manifest.sha256(f'{name}.json')}",
                found=found,
                remedy="sign at the commit that the release was exported at",
            )
    try:
        trials, rules = recheck(repo, load_params(repo / "params.yaml"))
    except BacktestError as error:
        raise CannotCheck(error.message, remedy=error.remedy) from error
    failed = [_short(asdict(rule)) for rule in rules if not rule.passed]
    if failed:
        raise Refused(
            "gate-recount",
            expected="a gate that still passes with all trials known now",
            found=f"{trials} trials; {'; '.join(failed)}",
            remedy="run `dvc repro`, have the new report approved, export again",
        )


def candidate_digest(models: list[Path]) -> str:
    """Name of the agents that were judged, as the backtest writes it: sha256 over their sha256, in order."""
    digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in models]
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()


def _short(rule: Any) -> str:
    if not isinstance(rule, dict):
        return repr(rule)
    return f"{rule.get('rule')} {rule.get('figure')} (limit {rule.get('limit')}): passed {rule.get('passed')}"
