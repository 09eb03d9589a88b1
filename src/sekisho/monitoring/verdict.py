"""The verdict of one scheduled check: a JSON file, and the same for people."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter

from sekisho.errors import CannotCheck
from sekisho.release.audit import write_atomically

State = Literal["ok", "alarm", "cannot-judge"]
EXIT_CODES: dict[State, int] = {"ok": 0, "alarm": 1, "cannot-judge": 2}
DRIFT = ("mean", "volatility", "correlation")  # a drift proposes a retraining
DUE = ("performance", "age")  # these make it due
HALT = ("drawdown", "session-loss")  # these turn the server's kill switch off
DATA = ("skew",)  # for those who bring the data; drift is not judged meanwhile


@dataclass(frozen=True)
class Alarm:
    """``family``: mean, volatility or correlation (data drift), performance, age, drawdown or session-loss
    (of the live account), parity or safe-answers (serving), skew (data). ``detector``: for drift.
    """

    family: str
    series: str
    statistic: float
    threshold: float
    session: str
    detector: str = ""


@dataclass(frozen=True)
class Verdict:
    """Whether the release may go on unattended, and why.

    ``levels`` and ``cusum``: both drift statistics after each judged session, with their limits;
    ``false_alarms``: those a month that the reference's calibration found, with their interval; ``top``: the
    series with the most evidence, strongest first; ``distances``: KS, PSI, Wasserstein, for people only;
    ``answers``: share of each guard verdict over all rows; ``latency``: quantiles in seconds; ``skew`` and
    ``performance``: see ``records.Skew`` and ``performance.Performance``; ``action``: what the policy asks
    for; ``checked_at``: when it was checked, ``as_of``: the moment that was asked about; ``environment``:
    whose log it was; ``acknowledged``: alarms that people know of; ``problems``: why it cannot be judged
    (drift, that is: ``alarms`` may then hold those of the serving side).
    """

    model: str
    seq: int
    manifest_digest: str
    reference_digest: str
    state: State
    problems: list[str] = field(default_factory=list)
    alarms: list[Alarm] = field(default_factory=list)
    first_session: str | None = None
    last_session: str | None = None
    sessions: int = 0
    excluded: dict[str, str] = field(default_factory=dict)
    threshold: float = 0.0
    levels: dict[str, float] = field(default_factory=dict)
    cusum_threshold: float = 0.0
    cusum: dict[str, float] = field(default_factory=dict)
    false_alarms: dict[str, float] = field(default_factory=dict)
    distances: list[dict[str, Any]] = field(default_factory=list)
    latency: dict[str, float] = field(default_factory=dict)
    skew: dict[str, Any] = field(default_factory=dict)
    performance: dict[str, Any] = field(default_factory=dict)
    acknowledged: list[dict[str, str]] = field(default_factory=list)
    top: list[dict[str, Any]] = field(default_factory=list)
    answers: dict[str, float] = field(default_factory=dict)
    rows: int = 0
    parity_difference: float = 0.0
    unwatched: list[str] = field(default_factory=list)
    checked_at: str | None = None
    as_of: str | None = None
    environment: str = ""

    @property
    def exit_code(self) -> int:
        return EXIT_CODES[self.state]

    @property
    def action(self) -> str:
        """``retrain``: due by policy; ``propose``: a drift to be looked at; ``halt``: the switch goes off and
        people decide; ``mend``: serving or data, which no retraining mends; ``none``.
        """
        families = {alarm.family for alarm in self.alarms}
        asked = {"halt": HALT, "retrain": DUE, "propose": DRIFT}
        found = [action for action, causes in asked.items() if families & set(causes)]
        return found[0] if found else "mend" if self.alarms or self.problems else "none"

    def cause(self) -> Alarm | None:
        """The alarm that a retraining answers: one that makes it due before one that proposes it."""
        for causes in (DUE, DRIFT):
            if found := next((alarm for alarm in self.alarms if alarm.family in causes), None):
                return found
        return None

    def sentence(self) -> str:
        """The verdict in one line."""
        if self.state == "cannot-judge":
            more = f" (and {len(self.problems) - 1} more)" if len(self.problems) > 1 else ""
            beside = "".join(f"; but {alarm.family} alarm on {alarm.session}" for alarm in self.alarms)
            return f"cannot judge: {self.problems[0]}{more}{beside}"
        span = f"{self.sessions} sessions, {self.first_session} to {self.last_session}"
        if self.state == "ok":
            return (
                f"ok: {span}; drift level {max(self.levels.values(), default=0.0):.3g} of {self.threshold:g}"
            )
        alarm, others = self.alarms[0], self.other_families()
        also = f"; also {', '.join(others)}" if others else ""
        return (
            f"alarm: {alarm.family} of {alarm.series} on {alarm.session}: "
            f"{alarm.statistic:.3g} over {alarm.threshold:g} ({span}){also}"
        )

    def other_families(self) -> list[str]:
        """Families that raised an alarm beside the first one's: the action may come of one of theirs."""
        families = dict.fromkeys(alarm.family for alarm in self.alarms)
        return list(families)[1:]

    def write(self, path: Path) -> None:
        """Write the JSON whole or not at all."""
        write_atomically(path, self.to_json().encode())

    def to_json(self) -> str:
        content = asdict(self) | {"action": self.action}
        return json.dumps(content, indent=1, sort_keys=True, allow_nan=False) + "\n"


CHECKED = TypeAdapter(Verdict)


def read_verdict(path: Path) -> Verdict:
    """Read a verdict file.

    Raises:
        CannotCheck: missing or not a verdict.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CannotCheck(
            f"{path}: not a verdict: {error}", remedy="run `sekisho drift check` first"
        ) from error
    return parse_verdict(content, str(path))


def parse_verdict(content: bytes, name: str) -> Verdict:
    """What ``Verdict.to_json`` wrote; ``name`` is for the error.

    Raises:
        CannotCheck: not a verdict, or a field of another type or form.
    """
    try:
        fields = json.loads(content)
        fields.pop("action")  # follows from the alarms
        verdict = CHECKED.validate_python(fields)
        for moment in filter(None, (verdict.checked_at, verdict.as_of)):
            dt.datetime.fromisoformat(moment)
        return verdict
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CannotCheck(
            f"{name}: not a verdict: {error}", remedy="run `sekisho drift check` first"
        ) from error


def read_verdicts(folder: Path) -> Iterator[tuple[Path, Verdict]]:
    """Verdicts below ``folder`` that say when they were given, by path; other files are passed over."""
    for path in sorted(folder.rglob("*.json")):
        try:
            verdict = read_verdict(path)
        except CannotCheck:
            continue
        if verdict.checked_at:
            yield path, verdict
