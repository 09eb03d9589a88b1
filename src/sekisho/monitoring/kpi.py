"""Figures of the loop itself, from what is recorded anyway: git, the audit log and the verdicts.

Nothing is estimated: what is not recorded is reported as not known.
"""

from __future__ import annotations

import datetime as dt
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sekisho.errors import CannotCheck
from sekisho.monitoring.verdict import DRIFT, Verdict, read_verdict
from sekisho.release.audit import Event, read_log
from sekisho.release.dvclock import git

DAY = 86400.0  # seconds


@dataclass(frozen=True)
class Kpi:
    """All times in seconds; None: not known.

    ``lead_times``: per promoted release, first commit on its branch to its first promotion; ``promotions``
    over ``span``, first to last promotion; ``responses``: per alarm, to the retrain branch and to its merge.
    """

    lead_times: dict[str, float]
    releases: int
    promotions: int
    span: float | None
    responses: list[dict[str, Any]]

    def as_dict(self) -> dict[str, Any]:
        """For programs."""
        return {
            "lead_time_seconds": self.lead_times,
            "lead_time_median_seconds": _median(list(self.lead_times.values())),
            "releases": self.releases,
            "promotions": self.promotions,
            "promotions_span_seconds": self.span,
            "alarms": self.responses,
        }

    def rows(self) -> list[tuple[str, str]]:
        """For people: name and figure."""
        found = [("releases", str(self.releases)), ("promotions", str(self.promotions))]
        if self.span:
            found.append(("promotions every", _spell(self.span / (self.promotions - 1))))
        middle = _median(list(self.lead_times.values()))
        found.append(("lead time, first commit to promotion (median)", _spell(middle)))
        for response in self.responses:
            name = f"alarm of {response['at']}"
            found.append((f"{name} to retrain branch", _spell(response["to_branch"])))
            found.append((f"{name} to merge", _spell(response["to_merge"])))
        return found


def measure(repo: Path, verdicts: Path) -> Kpi:
    """Compute the figures of a checkout.

    Args:
        repo: a git checkout with ``releases/``.
        verdicts: folder searched for verdict files (``**/*.json``); files of another kind are passed over.

    Raises:
        CannotCheck: not a git checkout, an audit log that cannot be read.
        Refused: the audit log's chain is broken.
    """
    git(repo, "rev-parse", "HEAD")
    events, _ = read_log(repo / "releases")
    promotions = [event for event in events if event.event == "promote"]
    first: dict[str, Event] = {}
    for event in promotions:
        first.setdefault(f"{event.model}/{event.seq}", event)
    lead_times = {}
    for name, event in first.items():
        began = _first_commit(repo, name)
        if began is not None:
            lead_times[name] = event.at.timestamp() - began
    span = (promotions[-1].at - promotions[0].at).total_seconds() if len(promotions) > 1 else None
    return Kpi(
        lead_times=lead_times,
        releases=sum(event.event in ("export", "rollback") for event in events),
        promotions=len(promotions),
        span=span,
        responses=_responses(repo, verdicts),
    )


def _first_commit(repo: Path, release: str) -> float | None:
    """Time of the first commit on the branch that a release was merged from; None where git knows none."""
    try:
        manifest = json.loads((repo / "releases" / release / "manifest.json").read_text(encoding="utf-8"))
        commit = str(manifest["created_from"]["commit"])
        merge = _lines(repo, "rev-list", "--first-parent", "--merges", "--max-count=1", commit)
        if not merge:
            return None
        times = _lines(repo, "log", "--format=%at", f"{merge[0]}^1..{merge[0]}^2")
    except (OSError, ValueError, KeyError, CannotCheck):
        return None
    return min((float(time) for time in times), default=None)


def _responses(repo: Path, verdicts: Path) -> list[dict[str, Any]]:
    """The first drift alarm of each release, and what followed it."""
    alarms: dict[str, tuple[float, Verdict]] = {}
    for path in sorted(verdicts.rglob("*.json")):
        try:
            verdict = read_verdict(path)
        except CannotCheck:
            continue
        if verdict.checked_at and any(alarm.family in DRIFT for alarm in verdict.alarms):
            at = dt.datetime.fromisoformat(verdict.checked_at).timestamp()
            known = alarms.get(verdict.manifest_digest)
            alarms[verdict.manifest_digest] = min(
                known or (at, verdict), (at, verdict), key=lambda pair: pair[0]
            )
    return [_response(repo, at, verdict) for at, verdict in sorted(alarms.values(), key=lambda pair: pair[0])]


def _response(repo: Path, at: float, verdict: Verdict) -> dict[str, Any]:
    """Seconds from the alarm to the first retrain commit that names the release, and to its merge."""
    wanted = f"manifest sha256:{verdict.manifest_digest}"
    commits = _lines(
        repo, "log", "--all", "--reverse", "--format=%H %ct", "--fixed-strings", f"--grep={wanted}"
    )
    to_branch, to_merge = None, None
    if commits:
        commit, time = commits[0].split()
        to_branch = float(time) - at
        path = ("--ancestry-path", "--merges", "--reverse", "--format=%ct", f"{commit}..HEAD")
        merges = _lines(repo, "log", *path)
        to_merge = float(merges[0]) - at if merges else None
    return {
        "release": f"{verdict.model}/{verdict.seq}",
        "at": verdict.checked_at,
        "family": verdict.alarms[0].family,
        "to_branch": to_branch,
        "to_merge": to_merge,
    }


def _lines(repo: Path, *words: str) -> list[str]:
    return git(repo, *words).decode().split("\n")[:-1]


def _median(values: list[float]) -> float | None:
    ordered = sorted(values)
    if not ordered:
        return None
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def _spell(seconds: float | None) -> str:
    if seconds is None:
        return "not known"
    if seconds >= 2 * DAY:
        return f"{seconds / DAY:.1f} days"
    return f"{seconds / 3600:.1f} hours" if seconds >= 7200 else f"{seconds / 60:.1f} minutes"
