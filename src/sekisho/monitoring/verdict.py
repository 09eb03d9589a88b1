"""The verdict of one scheduled check: a JSON file, and the same for people."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from sekisho.errors import CannotCheck

State = Literal["ok", "alarm", "cannot-judge"]
EXIT_CODES: dict[State, int] = {"ok": 0, "alarm": 1, "cannot-judge": 2}
DRIFT = ("mean", "volatility", "correlation")


@dataclass(frozen=True)
class Alarm:
    """``family``: mean, volatility or correlation (data drift), parity or safe-answers (serving)."""

    family: str
    series: str
    statistic: float
    threshold: float
    session: str


@dataclass(frozen=True)
class Verdict:
    """Whether the release may go on unattended, and why.

    ``levels``: the drift statistic after each judged session; ``top``: the series with the most evidence,
    strongest first; ``answers``: share of each guard verdict over all rows; ``problems``: why it cannot be
    judged (drift, that is: ``alarms`` may then hold those of the serving side).
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
    top: list[dict[str, Any]] = field(default_factory=list)
    answers: dict[str, float] = field(default_factory=dict)
    rows: int = 0
    parity_difference: float = 0.0
    unwatched: list[str] = field(default_factory=list)
    checked_at: str | None = None

    @property
    def exit_code(self) -> int:
        return EXIT_CODES[self.state]

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
        alarm = self.alarms[0]
        return (
            f"alarm: {alarm.family} of {alarm.series} on {alarm.session}: "
            f"{alarm.statistic:.3g} over {alarm.threshold:g} ({span})"
        )

    def write(self, path: Path) -> None:
        """Write the JSON whole or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(f".{path.name}.tmp")
        beside.write_text(self.to_json(), encoding="utf-8")
        beside.replace(path)

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1, sort_keys=True, allow_nan=False) + "\n"


def read_verdict(path: Path) -> Verdict:
    """Read a verdict file.

    Raises:
        CannotCheck: missing or not a verdict.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        content["alarms"] = [Alarm(**alarm) for alarm in content["alarms"]]
        return Verdict(**content)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CannotCheck(
            f"{path}: not a verdict: {error}", remedy="run `sekisho drift check` first"
        ) from error
