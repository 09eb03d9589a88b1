"""Figures of the loop itself, from what is recorded anyway: git, the audit log and the verdicts.

Nothing is estimated: what is not recorded is reported as not known.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sekisho.checkout import git
from sekisho.errors import CannotCheck
from sekisho.monitoring.verdict import DRIFT, DUE, HALT, Verdict, read_verdicts
from sekisho.release.audit import Event, read_log

DAY = 86400.0  # seconds
WITHIN = DAY  # from an anomaly to a retrained release in service
FAILING = (*HALT, "parity", "safe-answers", "performance")  # alarms that another release may have to answer
ENGLISH = ("not known", "days", "hours", "minutes")
SHARE = 0.5  # of the lead time before, that is to be left


@dataclass(frozen=True)
class Kpi:
    """All times in seconds; None: not known.

    ``changes``: releases promoted that are no rollbacks; ``lead_times``: of those whose first commit git
    knows, from it to the first promotion; ``promotions`` over ``span``, first to last promotion;
    ``failures``: changes that had to be answered, with the seconds until another release was in service
    (None: none was yet); ``responses``: per anomaly, to the retrain branch, to its merge and to the promotion
    of what came of it. ``baseline``: lead time before this repository, as the reader states it.

    A change failed if a rollback replaced it, if another release did while one of its `FAILING` alarms stood,
    or if a loss halted it. The time to restore begins with the anomaly that stood then (else with the
    rollback's entry): the first verdict that shows such an alarm after one that does not.
    """

    changes: int
    lead_times: dict[str, float]
    releases: int
    promotions: int
    span: float | None
    failures: dict[str, float | None]
    responses: list[dict[str, Any]]
    baseline: float | None = None

    @property
    def failure_rate(self) -> float | None:
        """Share of the changes that failed."""
        return len(self.failures) / self.changes if self.changes else None

    @property
    def restored(self) -> float | None:
        """Median time to restore of the failures that are over."""
        return _median([seconds for seconds in self.failures.values() if seconds is not None])

    @property
    def lead_time(self) -> float | None:
        return _median(list(self.lead_times.values()))

    def as_dict(self) -> dict[str, Any]:
        """For programs."""
        return {
            "changes": self.changes,
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
            found.append(("promotions every", spell(self.span / (self.promotions - 1))))
        goal = self.baseline * SHARE if self.baseline else None
        found.append(("lead time, first commit to promotion (median)", _against(self.lead_time, goal)))
        rate = "not known" if self.failure_rate is None else f"{self.failure_rate:.0%}"
        found.append(("changes that failed", rate))
        found.append(("time to restore (median)", spell(self.restored)))
        for response in self.responses:
            name = f"alarm of {response['at']}"
            found.append((f"{name} to retrain branch", spell(response["to_branch"])))
            found.append((f"{name} to merge", spell(response["to_merge"])))
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
    checked = _checked(verdicts)
    changes = [name for name in first if name not in restores]
    span = (promotions[-1].at - promotions[0].at).total_seconds() if len(promotions) > 1 else None
    return Kpi(
        changes=len(changes),
        lead_times=lead_times,
        releases=sum(event.event in ("export", "rollback") for event in events),
        promotions=len(promotions),
        span=span,
        failures=_failures(events, checked),
        responses=[
            _response(repo, anomaly, first)
            for found in checked.values()
            for anomaly in _anomalies(found, (*DUE, *DRIFT))
        ],
        baseline=baseline,
    )


def _checked(verdicts: Path) -> dict[str, list[tuple[float, Verdict]]]:
    """Verdicts by the release's manifest digest, in the order they were given."""
    found: dict[str, list[tuple[float, Verdict]]] = {}
    for _, verdict in read_verdicts(verdicts):
        at = dt.datetime.fromisoformat(str(verdict.checked_at)).timestamp()
        found.setdefault(verdict.manifest_digest, []).append((at, verdict))
    return {digest: sorted(each, key=lambda pair: pair[0]) for digest, each in found.items()}


@dataclass(frozen=True)
class Anomaly:
    """Alarms of some families without a break: from the first verdict with one to the first without
    (``end``, None while it stands). A verdict that could not be reached neither begins nor ends one.
    """

    begin: float
    end: float | None
    verdict: Verdict  # the first


def _anomalies(checked: list[tuple[float, Verdict]], families: Collection[str]) -> list[Anomaly]:
    """The anomalies of one release, in time order."""
    found: list[Anomaly] = []
    for at, verdict in checked:
        shown = bool({alarm.family for alarm in verdict.alarms} & set(families))
        stands = bool(found) and found[-1].end is None
        if shown and not stands:
            found.append(Anomaly(at, None, verdict))
        elif stands and not shown and verdict.state != "cannot-judge":
            found[-1] = replace(found[-1], end=at)
    return found


def _failures(
    events: Sequence[Event], checked: Mapping[str, list[tuple[float, Verdict]]]
) -> dict[str, float | None]:
    """Changes that failed, with the seconds until another release was in service (see `Kpi`)."""
    entries = {
        (event.model, event.seq): event.at.timestamp() for event in events if event.event == "rollback"
    }
    serving: dict[tuple[str, str], Event] = {}
    found: dict[str, float | None] = {}
    for event in [event for event in events if event.event == "promote"]:
        place = (str(event.model), str(event.details.get("environment")))
        before, serving[place] = serving.get(place), event
        if before is None or before.seq == event.seq or (before.model, before.seq) in entries:
            continue
        replaced, entry = event.at.timestamp(), entries.get((event.model, event.seq))
        begun = _stood(checked.get(str(before.manifest_digest), []), entry or replaced)
        if begun is not None or entry is not None:
            began = begun if begun is not None else entry
            found[f"{before.model}/{before.seq}"] = replaced - float(began or 0.0)
    for event in [*serving.values(), *(e for e in events if e.event == "promote")]:
        halted = _anomalies(checked.get(str(event.manifest_digest), []), HALT)
        if halted and (event.model, event.seq) not in entries:
            found.setdefault(f"{event.model}/{event.seq}", None)
    return found


def _stood(checked: list[tuple[float, Verdict]], at: float) -> float | None:
    """Since when a `FAILING` alarm stood at a moment; None where none did."""
    for anomaly in reversed(_anomalies(checked, FAILING)):
        if anomaly.begin <= at and (anomaly.end is None or anomaly.end > at):
            return anomaly.begin
    return None


def _first_commit(repo: Path, release: str) -> float | None:
    """Time of the first commit on the branch that a release was merged from; None where git knows none, as
    after a squash: what was on the branch is not recorded then.
    """
    try:
        manifest = json.loads((repo / "releases" / release / "manifest.json").read_text(encoding="utf-8"))
        commit = str(manifest["created_from"]["commit"])
        parents = _lines(repo, "rev-list", "--parents", "--max-count=1", commit)[0].split()[1:]
        if len(parents) != 2:
            return None
        times = _lines(repo, "log", "--format=%at", f"{parents[0]}..{parents[1]}")
    except (OSError, ValueError, KeyError, IndexError, CannotCheck):
        return None
    return min((float(time) for time in times), default=None)


def _response(repo: Path, anomaly: Anomaly, promoted: dict[str, Event]) -> dict[str, Any]:
    """Seconds from the anomaly to the first retrain commit after it that names the release, to its merge, and
    to the promotion of a release made from it."""
    at, verdict = anomaly.begin, anomaly.verdict
    wanted = f"manifest sha256:{verdict.manifest_digest}"
    named = _lines(
        repo, "log", "--all", "--reverse", "--format=%H %ct", "--fixed-strings", f"--grep={wanted}"
    )
    commits = [line for line in named if float(line.split()[1]) >= at]
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
        return spell(seconds)
    return f"{spell(seconds)} (goal {spell(goal)}: {'holds' if seconds <= goal else 'missed'})"


def spell(seconds: float | None, words: tuple[str, str, str, str] = ENGLISH) -> str:
    """A time in days, hours or minutes; ``words`` are those for not known, days, hours and minutes."""
    unknown, days, hours, minutes = words
    if seconds is None:
        return unknown
    if seconds >= 2 * DAY:
        return f"{seconds / DAY:.1f} {days}"
    return f"{seconds / 3600:.1f} {hours}" if seconds >= 7200 else f"{seconds / 60:.1f} {minutes}"
