"""The bundles that the log speaks of: read them, and let nothing new begin while one is missing."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import TypeVar

from sekisho.errors import CannotCheck, Refused
from sekisho.release import audit
from sekisho.release.deployment import check_logged, last_promotions
from sekisho.release.manifest import BUNDLES
from sekisho.release.statements import Deployment, Predicate

P = TypeVar("P", bound=Predicate)


def require_finished(
    releases: Path,
    events: list[audit.Event],
    *,
    signing: tuple[str, int] | None = None,
    promoting: tuple[str, int, str] | None = None,
) -> None:
    """Every signature and promotion that the log has is in place, but for the one that is being repeated.

    A command that was killed after its line is completed by running it again, as long as nothing came after:
    a newer release would make that impossible, and its line would lack its evidence for ever. ``signing`` is
    a release by model and seq, ``promoting`` one with its environment.

    Raises:
        Refused: rule ``unfinished``; names the line and what completes it.
        CannotCheck: a bundle cannot be read.
    """
    for (model, seq), digest in audit.signed_releases(events).items():
        if (model, seq) != signing and not (releases / model / str(seq) / BUNDLES).is_dir():
            what = f"signature of {model}/{seq}, sha256 {digest}"
            raise _unfinished(what, f"`sekisho sign {model}/{seq} --approval FILE`")
    bundles = deployments(releases)
    for key, event in last_promotions(events).items():
        model, seq, environment = key
        if key != promoting and not _in_place(bundles.get(key), event):
            what = f"promotion of {model}/{seq} to {environment}, line {event.line}"
            raise _unfinished(what, f"`sekisho promote {model}/{seq} --environment {environment}`")


def _in_place(bundle: Path | None, event: audit.Event) -> bool:
    if bundle is None:
        return False
    try:
        check_logged(payload(bundle, Deployment), event, bundle)
    except Refused:
        return False
    return True


def _unfinished(what: str, command: str) -> Refused:
    return Refused(
        "unfinished",
        expected=f"the {what}, in its bundle",
        found="only its line in the log: the command was interrupted, or the bundle removed",
        remedy=f"run {command} again first, or restore the bundle from git; if neither can be, and the line "
        f"was never merged, take it back: `git restore releases/{audit.LOG}`",
    )


def deployments(releases: Path) -> dict[tuple[str, int, str], Path]:
    """Bundle of every signed promotion, by model, seq and environment."""
    found = {}
    for path in sorted(releases.glob(f"*/*/{BUNDLES}/deployment-*.sigstore.json")):
        folder = path.parents[1]
        environment = path.name.removeprefix("deployment-").removesuffix(".sigstore.json")
        seq = int(folder.name) if folder.name.isdecimal() else 0  # another name is refused as a folder
        found[folder.parent.name, seq, environment] = path
    return found


def payload(path: Path, model: type[P]) -> P:
    """What a bundle says. Its signature is not checked here: a false one can only lead to a refusal.

    Raises:
        CannotCheck: it cannot be read.
    """
    try:
        envelope = json.loads(path.read_bytes())["dsseEnvelope"]
        predicate = json.loads(base64.b64decode(envelope["payload"]))["predicate"]
        return model.model_validate_json(json.dumps(predicate))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CannotCheck(f"{path}: {error}", remedy="restore it from git") from error
