"""A loss over its limit turns the server's kill switch off, whatever else the verdict says.

Nothing here turns it on again, and no retraining does: people do, after they know why.
"""

from __future__ import annotations

from pathlib import Path

from sekisho.monitoring.verdict import HALT, Verdict
from sekisho.serving.switch import Position, read_switch, write_switch


def halt(verdict: Verdict, switch: Path) -> bool:
    """Turn the switch off if the verdict holds a loss over its limit; tells whether it did so now.

    Raises:
        OSError: the switch cannot be written.
    """
    alarm = next((alarm for alarm in verdict.alarms if alarm.family in HALT), None)
    if alarm is None or (switch.exists() and read_switch(switch) is Position.OFF):
        return False
    reason = f"{alarm.family} {alarm.statistic:.2%} over {alarm.threshold:.2%} on {alarm.session}"
    write_switch(switch, Position.OFF, f"{reason}, {verdict.model}/{verdict.seq}")
    return True
