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
from sekisho.monitoring.verdict import Verdict, read_verdicts
from sekisho.release.audit import Event, read_log
from sekisho.release.dvclock import git

DAY = 86400.0  # seconds
WITHIN = DAY  # from an anomaly to a retrained release in service
SHARE = 0.5  # of the lead time before, that is to be left


@dataclass(frozen=True)
class Kpi:
    """All times in seconds; None: not known.

    ``lead_times``: per promoted release, first commit on its branch to its first promotion; ``promotions``
    over ``span``, first to last promotion; ``failures``: promoted releases that a promoted rollback replaced,
    with the time from the first alarm of the release (else from the rollback's entry) to that promotion;
    ``responses``: per alarm, to the retrain branch, to its merge and to the promotion of what came of it.
    ``baseline``: lead time before this repository, as the reader states it.
    """

    lead_times: dict[str, float]
    releases: int
    promotions: int
    span: float | None
    failures: dict[str, float]
    responses: list[dict[str, Any]]
    baseline: float | None = None

    @property
    def failure_rate(self) -> float | None:
        """Share of the changes (releases promoted that are no rollbacks) that were rolled back."""
        return len(self.failures) / len(self.lead_times) if self.lead_times else None

    @property
    def lead_time(self) -> float | None:
        return _median(list(self.lead_times.values()))

    def as_dict(self) -> dict[str, Any]:
        """For programs."""
        return {
            "lead_time_seconds": self.lead_times,
            "lead_time_median_seconds": self.lead_time,
            "lead_time_baseline_seconds": self.baseline,
            "change_failure_rate": self.failure_rate,
            "time_to_restore_seconds": self.failures,
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
        goal = self.baseline * SHARE if self.baseline else None
        found.append(("lead time, first commit to promotion (median)", _against(self.lead_time, goal)))
        rate = "not known" if self.failure_rate is None else f"{self.failure_rate:.0%}"
        found.append(("changes that were rolled back", rate))
        found.append(("time to restore (median)", _spell(_median(list(self.failures.values())))))
        for response in self.responses:
            name = f"alarm of {response['at']}"
            found.append((f"{name} to retrain branch", _spell(response["to_branch"])))
            found.append((f"{name} to merge", _spell(response["to_merge"])))
            found.append((f"{name} to promotion", _against(response["to_promotion"], WITHIN)))
        return found


def measure(
    repo: Path, verdicts: Path, *, environment: str | None = None, baseline: float | None = None
) -> Kpi:
    """Compute the figures of a checkout.

    Args:
        repo: a git checkout with ``releases/``.
        verdicts: folder searched for verdict files (``**/*.json``); files of another kind are passed over.
        environment: whose promotions count; None: every environment's.
        baseline: lead time before, seconds.

    Raises:
        CannotCheck: not a git checkout, an audit log that cannot be read.
        Refused: the audit log's chain is broken.
    """
    git(repo, "rev-parse", "HEAD")
    logged, _ = read_log(repo / "releases")
    events = [
        event
        for event in logged
        if event.event != "promote" or environment in (None, event.details.get("environment"))
    ]
    promotions = [event for event in events if event.event == "promote"]
    first: dict[str, Event] = {}
    for event in promotions:
        first.setdefault(f"{event.model}/{event.seq}", event)
    lead_times, restores = {}, {f"{event.model}/{event.seq}" for event in events if event.event == "rollback"}
    for name, event in first.items():
        if name in restores:
            continue
        began = _first_commit(repo, name)
        if began is not None:
            lead_times[name] = event.at.timestamp() - began
    alarms = _first_alarms(verdicts)
    span = (promotions[-1].at - promotions[0].at).total_seconds() if len(promotions) > 1 else None
    return Kpi(
        lead_times=lead_times,
        releases=sum(event.event in ("export", "rollback") for event in events),
        promotions=len(promotions),
        span=span,
        failures=_failures(events, alarms),
        responses=[_response(repo, at, verdict, first) for at, verdict in alarms if _drifted(verdict)],
        baseline=baseline,
    )


def _failures(events: list[Event], alarms: list[tuple[float, Verdict]]) -> dict[str, float]:
    """Releases that a rollback replaced in an environment, with the seconds until it was in service."""
    entries = {
        (event.model, event.seq): event.at.timestamp() for event in events if event.event == "rollback"
    }
    serving: dict[tuple[str, str], Event] = {}
    found: dict[str, float] = {}
    for event in events:
        if event.event != "promote":
            continue
        place = (str(event.model), str(event.details.get("environment")))
        before, entry = serving.get(place), entries.get((event.model, event.seq))
        if before and entry is not None and (before.model, before.seq) not in entries:
            known = [at for at, verdict in alarms if verdict.manifest_digest == before.manifest_digest]
            began = min([*known, entry])
            found.setdefault(f"{before.model}/{before.seq}", event.at.timestamp() - began)
        serving[place] = event
    return found


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


def _first_alarms(verdicts: Path) -> list[tuple[float, Verdict]]:
    """The first verdict with an alarm of each release, and with a drift, performance or age alarm."""
    alarms: dict[tuple[str, bool], tuple[float, Verdict]] = {}
    for _, verdict in read_verdicts(verdicts):
        if verdict.alarms:
            pair = (dt.datetime.fromisoformat(str(verdict.checked_at)).timestamp(), verdict)
            key = (verdict.manifest_digest, _drifted(verdict))
            alarms[key] = min(alarms.get(key, pair), pair, key=lambda found: found[0])
    return sorted(alarms.values(), key=lambda found: found[0])


def _drifted(verdict: Verdict) -> bool:
    """Whether a retraining answers it."""
    return verdict.cause() is not None


def _response(repo: Path, at: float, verdict: Verdict, promoted: dict[str, Event]) -> dict[str, Any]:
    """Seconds from the alarm to the first retrain commit that names the release, to its merge, and to the
    promotion of a release made from it."""
    wanted = f"manifest sha256:{verdict.manifest_digest}"
    commits = _lines(
        repo, "log", "--all", "--reverse", "--format=%H %ct", "--fixed-strings", f"--grep={wanted}"
    )
    to_branch, to_merge, to_promotion = None, None, None
    if commits:
        commit, time = commits[0].split()
        to_branch = float(time) - at
        path = ("--ancestry-path", "--merges", "--reverse", "--format=%ct", f"{commit}..HEAD")
        merges = _lines(repo, "log", *path)
        to_merge = float(merges[0]) - at if merges else None
        holding = [
            event.at.timestamp() - at for name, event in promoted.items() if _holds(repo, name, commit)
        ]
        to_promotion = min(holding, default=None)
    return {
        "release": f"{verdict.model}/{verdict.seq}",
        "at": verdict.checked_at,
        "family": cause.family if (cause := verdict.cause()) else "",
        "to_branch": to_branch,
        "to_merge": to_merge,
        "to_promotion": to_promotion,
    }


def _holds(repo: Path, release: str, commit: str) -> bool:
    """Whether a release was made from a tree that has ``commit`` in its history."""
    try:
        made = json.loads((repo / "releases" / release / "manifest.json").read_text(encoding="utf-8"))
        return bool(
            _lines(
                repo,
                "rev-list",
                "--ancestry-path",
                "--max-count=1",
                f"{commit}..{made['created_from']['commit']}",
            )
        )
    except (OSError, ValueError, KeyError, CannotCheck):
        return False


def _lines(repo: Path, *words: str) -> list[str]:
    return git(repo, *words).decode().split("\n")[:-1]


def _median(values: list[float]) -> float | None:
    ordered = sorted(values)
    if not ordered:
        return None
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def _against(seconds: float | None, goal: float | None) -> str:
    """The figure beside its goal, and whether it holds."""
    if goal is None or seconds is None:
        return _spell(seconds)
    return f"{_spell(seconds)} (goal {_spell(goal)}: {'holds' if seconds <= goal else 'missed'})"


def _spell(seconds: float | None) -> str:
    if seconds is None:
        return "not known"
    if seconds >= 2 * DAY:
        return f"{seconds / DAY:.1f} days"
    return f"{seconds / 3600:.1f} hours" if seconds >= 7200 else f"{seconds / 60:.1f} minutes"
