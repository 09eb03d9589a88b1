"""A loss over its limit turns the server's kill switch off, whatever else the verdict says.

First the safe action; in a later session, where nobody has turned the switch since, the release before; and
if that one loses too, the safe action for good. Nothing here turns the switch on again, and no retraining
does: people do, after they know why. A turn by a person, of any kind, is left as it stands.
"""

from __future__ import annotations

import datetime as dt
import ssl
from pathlib import Path
from typing import Protocol

import httpx

from sekisho.errors import CannotCheck
from sekisho.monitoring.verdict import HALT, Verdict
from sekisho.serving.switch import Position, Turned, parse_turn, read_turn, turn_text, write_switch

HALTED = "halted:"  # begins the reason of a turn that was made here and may be followed by the next one
ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
PREFIX, KEY = "configmap:", "switch"
TIMEOUT = 10.0  # seconds for one call to the cluster


class Switch(Protocol):
    """The kill switch that a server reads."""

    def read(self) -> Turned:
        """How it stands; never on where it cannot be read."""

    def turn(self, position: Position, reason: str, at: dt.datetime) -> None:
        """Turn it.

        Raises:
            CannotCheck: it could not be turned.
        """


class FileSwitch:
    """A file that the server reads, or that its ConfigMap is made from."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> Turned:
        return read_turn(self._path)

    def turn(self, position: Position, reason: str, at: dt.datetime) -> None:
        try:
            write_switch(self._path, position, reason, at)
        except OSError as error:
            raise CannotCheck(
                f"{self._path}: {error}", remedy="turn it by hand at once: deploy/README.md"
            ) from error


class ConfigMapSwitch:
    """The ConfigMap that the pods mount, turned from inside the cluster by a service account."""

    def __init__(self, namespace: str, name: str, api: str, account: Path = ACCOUNT) -> None:
        self._url = f"{api}/api/v1/namespaces/{namespace}/configmaps/{name}"
        self._account, self._version = account, ""

    def read(self) -> Turned:
        found = self._call("GET")
        self._version = str(found.get("metadata", {}).get("resourceVersion", ""))
        return parse_turn(str(found.get("data", {}).get(KEY, "")))

    def turn(self, position: Position, reason: str, at: dt.datetime) -> None:
        change: dict[str, object] = {"data": {KEY: turn_text(position, reason, at)}}
        if self._version:  # refused where a person turned it since it was read
            change["metadata"] = {"resourceVersion": self._version}
        self._call("PATCH", change)

    def _call(self, method: str, content: dict[str, object] | None = None) -> dict[str, dict[str, str]]:
        remedy = "turn it by hand at once: deploy/README.md"
        try:
            token = (self._account / "token").read_text(encoding="utf-8").strip()
            authority = self._account / "ca.crt"
            with httpx.Client(timeout=TIMEOUT, verify=_trusting(authority)) as client:
                kind = {"Authorization": f"Bearer {token}", "Content-Type": "application/merge-patch+json"}
                answer = client.request(method, self._url, headers=kind, json=content)
                answer.raise_for_status()
                found: dict[str, dict[str, str]] = answer.json()
        except (OSError, httpx.HTTPError, ValueError) as error:
            raise CannotCheck(f"{self._url}: {error}", remedy=remedy) from error
        return found


def _trusting(authority: Path) -> ssl.SSLContext | bool:
    return ssl.create_default_context(cafile=str(authority)) if authority.exists() else True


def open_switch(address: str, api: str = "https://kubernetes.default.svc") -> Switch:
    """A file's path, or ``configmap:<namespace>/<name>`` from inside a cluster.

    Raises:
        CannotCheck: an address of neither kind.
    """
    if not address.startswith(PREFIX):
        return FileSwitch(Path(address))
    namespace, _, name = address.removeprefix(PREFIX).partition("/")
    if not namespace or not name:
        raise CannotCheck(f"{address}: not configmap:<namespace>/<name>", remedy="name both")
    return ConfigMapSwitch(namespace, name, api)


def halt(
    verdict: Verdict, switch: Switch, at: dt.datetime, trades: Position = Position.ON
) -> Position | None:
    """Turn the switch off if the verdict holds a loss over its limit and the switch stands at ``trades``,
    where the judged release decides; tells what it was turned to, if it was.

    Raises:
        CannotCheck: the switch cannot be written.
    """
    alarm = next((alarm for alarm in verdict.alarms if alarm.family in HALT), None)
    turned = switch.read()
    if alarm is None or turned.position is not trades:
        return None
    figures = f"{alarm.family} {alarm.statistic:.2%} over {alarm.threshold:.2%} on {alarm.session}"
    # what the release before loses after it was turned to here is the end: people decide then
    mark = "" if turned.position is Position.PREVIOUS else f"{HALTED} "
    switch.turn(Position.OFF, f"{mark}{figures}, {verdict.model}/{verdict.seq}", at)
    return Position.OFF


def step_back(switch: Switch, opened: dt.datetime, at: dt.datetime) -> Position | None:
    """Let the release before trade, if the switch was turned off here and before ``opened``, when the running
    session began: the session of the loss is over, and no person has turned it since.

    Raises:
        CannotCheck: the switch cannot be written.
    """
    turned = switch.read()
    waits = turned.position is Position.OFF and turned.reason.startswith(HALTED)
    if not waits or turned.at is None or turned.at >= opened:
        return None
    switch.turn(Position.PREVIOUS, turned.reason, at)
    return Position.PREVIOUS
