"""The audit log: ``releases/audit.jsonl``, one event a line, each with the hash of the line before it.

An event is written before what it describes takes effect, so that nothing ever happens unrecorded; the
commands may be repeated after a crash. Only ever appended to; meant to be mirrored to storage without
deletion.
"""

from __future__ import annotations

import datetime as dt
import fcntl
import hashlib
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from sekisho.errors import CannotCheck, Refused
from sekisho.release.manifest import (
    Manifest,
    ModelName,
    Seq,
    Sha256,
    canonical,
    check_place,
    parse_canonical,
    read_manifest,
)

LOG = "audit.jsonl"
GENESIS = "0" * 64  # "previous" of the first line
RESTORE = "restore releases/audit.jsonl from git or the mirror; find out who changed it"

REASON_LIMIT = 500  # characters, everywhere a reason is signed
ACTOR = re.compile(r"[A-Za-z0-9][A-Za-z0-9\[\]_.-]{0,99}")  # statements.Person

Action = Literal["export", "sign", "promote", "rollback", "revoke", "renew"]


class Event(BaseModel):
    """One line of the log."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    line: Annotated[int, Field(ge=1)]
    previous: Sha256
    at: AwareDatetime
    event: Action
    actor: Annotated[str, Field(min_length=1, max_length=100)]
    model: ModelName | None
    seq: Seq | None
    manifest_digest: Sha256 | None
    details: dict[str, Any]

    def encode(self) -> bytes:
        """The event as its line, without the line's end."""
        return canonical(self.model_dump(mode="json"))

    def same_as(self, other: Event) -> bool:
        """Whether both say the same, whenever and wherever in the log."""
        apart = {"line", "previous", "at"}
        return self.model_dump(exclude=apart) == other.model_dump(exclude=apart)


@dataclass(frozen=True)
class Head:
    """Where the log ends: number of lines and hash of the last."""

    lines: int
    sha256: str


def now() -> dt.datetime:
    """The clock, in whole seconds: what the log and the facts record."""
    return dt.datetime.now(dt.UTC).replace(microsecond=0)


def line_hash(line: bytes) -> str:
    """Sha256 (hex) of a line without its end: what the next line carries."""
    return hashlib.sha256(line).hexdigest()


def read_log(releases: Path) -> tuple[list[Event], list[bytes]]:
    """All events and their lines, the chain checked.

    Raises:
        Refused: rule ``audit-chain``: a line was edited, removed, inserted or moved; names the line.
        CannotCheck: the log cannot be read.
    """
    path = releases / LOG
    if not path.exists():
        return [], []
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise CannotCheck(f"{path}: {error.strerror}", remedy=RESTORE) from error
    if not raw.endswith(b"\n"):
        raise _broken(path, raw.count(b"\n") + 1, "a whole line", "a line cut short")
    lines = raw[:-1].split(b"\n")
    events: list[Event] = []
    previous = GENESIS
    for number, line in enumerate(lines, start=1):
        try:
            parse_canonical(line, f"line {number}")
            event = Event.model_validate_json(line)
        except (Refused, ValidationError) as error:
            raise _broken(path, number, "an event in canonical JSON", type(error).__name__) from error
        if event.line != number or event.previous != previous:
            raise _broken(
                path, number, f"line {number} after {previous}", f"line {event.line} after {event.previous}"
            )
        if events and event.at < events[-1].at:
            raise _broken(path, number, f"a time from {events[-1].at} on", event.at)
        events.append(event)
        previous = line_hash(line)
    return events, lines


def _broken(path: Path, number: int, expected: object, found: object) -> Refused:
    return Refused("audit-chain", expected=f"{path} line {number}: {expected}", found=found, remedy=RESTORE)


def head_of(lines: list[bytes]) -> Head:
    """The head of a log of these lines."""
    return Head(len(lines), line_hash(lines[-1]) if lines else GENESIS)


@contextmanager
def locked(releases: Path) -> Iterator[None]:
    """One writer at a time among the release commands of this machine."""
    releases.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(releases, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def check_words(actor: str, reason: str | None) -> None:
    """What people give must fit the statements that will carry it: said before anything is written.

    Raises:
        CannotCheck: the actor is no account's name, or the reason is empty, too long or not plain text.
    """
    if not ACTOR.fullmatch(actor):
        raise CannotCheck(
            f"actor {actor!r}: not an account's name", remedy="set SEKISHO_ACTOR to letters, digits, _ . - []"
        )
    if reason is not None and not (reason.strip() and len(reason) <= REASON_LIMIT and reason.isprintable()):
        raise CannotCheck(
            f"a reason of {len(reason)} characters",
            remedy=f"give --reason one line of 1 to {REASON_LIMIT} printable characters",
        )


def signed_releases(events: list[Event]) -> dict[tuple[str, int], str]:
    """Manifest digest of every release that the log has seen signed, by model and seq.

    Raises:
        Refused: rule ``seq-reused``: one seq was signed twice, about two things.
    """
    found: dict[tuple[str, int], str] = {}
    for event in events:
        if event.event == "sign" and event.model and event.seq and event.manifest_digest:
            known = found.setdefault((event.model, event.seq), event.manifest_digest)
            require_first(event.model, event.seq, known, event.manifest_digest)
    return found


def require_first(model: str, seq: int, known: str | None, digest: str) -> None:
    """A seq is given once: ``known`` is what the log has for it, None if nothing yet.

    Raises:
        Refused: rule ``seq-reused``.
    """
    if known not in (None, digest):
        raise Refused(
            "seq-reused",
            expected=f"{model}/{seq} of sha256 {known}, as first signed",
            found=digest,
            remedy="restore the release from git; a seq is given once, export a new release",
        )


def logged_release(releases: Path, release: Path, events: list[Event]) -> tuple[Manifest, str]:
    """Manifest and digest of a release that lies in its own folder and is what the log has under its seq.

    That is the one that was signed; as long as none was, one that was exported.

    Raises:
        Refused: rules ``release-folder``, ``logged-release``, and those of :func:`manifest.read_manifest`.
        CannotCheck: no such release.
    """
    manifest, digest = read_manifest(release)
    check_place(releases, release, manifest)
    require_logged(events, manifest.model, manifest.seq, digest)
    return manifest, digest


def require_logged(events: list[Event], model: str, seq: int, digest: str, *, exported: bool = True) -> None:
    """The log has this digest as signed under this seq or, as long as none was signed there, as exported.

    ``exported`` False: only a signature counts.

    Raises:
        Refused: rule ``logged-release``.
    """
    signed = signed_releases(events).get((model, seq))
    made = [
        event.manifest_digest
        for event in events
        if exported and event.event in ("export", "rollback") and (event.model, event.seq) == (model, seq)
    ]
    known = [signed] if signed else made
    if digest not in known:
        never = "never made" if exported else "never signed"
        raise Refused(
            "logged-release",
            expected=f"{model}/{seq} as the log has it: {' or '.join(map(str, known)) or never}",
            found=digest,
            remedy="restore the release and the log from git; a seq is given once, export a new release",
        )


def next_event(
    releases: Path,
    event: Action,
    actor: str,
    *,
    model: str | None = None,
    seq: int | None = None,
    manifest_digest: str | None = None,
    details: dict[str, Any] | None = None,
) -> tuple[Event, Head]:
    """The event as the log's next line, not yet written, and the head that the log will have with it.

    The last event again if it says the same: the command that wrote it was interrupted and is being repeated.
    But each revocation and renewal has a line of its own, since a list's serial is their number.

    Raises:
        CannotCheck: as :func:`check_words`.
    """
    check_words(actor, (details or {}).get("reason"))
    events, lines = read_log(releases)
    moment = now()
    new = Event(
        line=len(events) + 1,
        previous=head_of(lines).sha256,
        at=max(moment, events[-1].at) if events else moment,
        event=event,
        actor=actor,
        model=model,
        seq=seq,
        manifest_digest=manifest_digest,
        details=details or {},
    )
    if event not in ("revoke", "renew") and events and events[-1].same_as(new):
        return events[-1], head_of(lines)
    return new, Head(new.line, line_hash(new.encode()))


def append(releases: Path, event: Event) -> None:
    """Write the event (from :func:`next_event`, under :func:`locked`) as the log's last line.

    Raises:
        CannotCheck: the log has moved on meanwhile.
    """
    events, lines = read_log(releases)
    if events and event == events[-1]:
        return
    if event.line != len(events) + 1 or event.previous != head_of(lines).sha256:
        raise CannotCheck("audit log: another command wrote to it meanwhile", remedy="run this command again")
    write_atomically(releases / LOG, b"".join(line + b"\n" for line in [*lines, event.encode()]))


def write_atomically(path: Path, content: bytes, staging: Path | None = None) -> None:
    """The old bytes or the new ones, whatever happens: temporary file, fsync, rename.

    The temporary file lies beside, or in ``staging`` where nothing unknown may ever lie beside.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=staging or path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        os.replace(temporary, path)  # noqa: PTH105 (the one call that tests interrupt)
    finally:
        temporary.unlink(missing_ok=True)
