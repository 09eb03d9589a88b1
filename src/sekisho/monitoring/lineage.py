"""What git and the log know of a release and of those that compete with it, for the model page.

Releases are given as traces (`release.trace.trace_releases`), every signature verified; challengers are
branches whose results nobody has merged, and what git says of them is their author's word.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml.error import YAMLError

from sekisho.checkout import git
from sekisho.errors import CannotCheck, SekishoError
from sekisho.params import parse_yaml
from sekisho.release.audit import Event
from sekisho.release.policy import load_policy
from sekisho.release.revocation import revoked_by

RESULTS = "metrics/backtest.json"
BRANCHES = 50  # the youngest are looked at
RECORDS = (
    "release/",
    "promote/",
    "rollback/",
    "halt/",
)  # branches that record what was decided; no candidates
SEPARATOR = "\x1f"


@dataclass(frozen=True)
class Commit:
    sha: str
    at: str  # ISO 8601, the author's
    author: str
    subject: str


@dataclass(frozen=True)
class Challenger:
    """A branch with results of its own: where it is, and what its backtest and gate say; {} where unread."""

    branch: str
    commit: Commit
    agent: Mapping[str, Any]
    over_champion: Mapping[str, Any]
    gate: Mapping[str, Any]


@dataclass(frozen=True)
class Revocation:
    environment: str
    at: dt.datetime
    reason: str


def commit_of(repo: Path, name: str) -> Commit | None:
    """None where this clone lacks it."""
    try:
        shown = git(repo, "show", "--no-patch", f"--format=%H{SEPARATOR}%aI{SEPARATOR}%an{SEPARATOR}%s", name)
    except CannotCheck:
        return None
    sha, at, author, subject = shown.decode(errors="replace").rstrip("\n").split(SEPARATOR, 3)
    return Commit(sha, at, author, subject)


def parameters_of(repo: Path, commit: str) -> dict[str, Any]:
    """``params.yaml`` of a commit; empty where it cannot be read."""
    try:
        found = parse_yaml(git(repo, "show", f"{commit}:params.yaml"))
    except (CannotCheck, YAMLError):
        return {}
    return found if isinstance(found, dict) else {}


def changed_parameters(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Keys whose values differ, with both; – where there is none."""
    old, new = dict(_flat(before)), dict(_flat(after))
    names = sorted(old.keys() | new.keys())
    return [(n, old.get(n, "–"), new.get(n, "–")) for n in names if old.get(n) != new.get(n)]


def _flat(value: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flat(inner, f"{prefix}.{key}".strip("."))
    else:
        yield prefix, str(value)


def challengers(repo: Path) -> list[Challenger]:
    """Branches of the remote that are not merged into HEAD and changed the results, the youngest first."""
    listed = git(
        repo, "for-each-ref", "--no-merged=HEAD", "--sort=-committerdate", f"--count={BRANCHES}",
        "--format=%(refname)", "refs/remotes/origin",
    )  # fmt: skip
    found = []
    for ref in listed.decode().split():
        branch = ref.removeprefix("refs/remotes/origin/")
        commit = None if branch.startswith(RECORDS) else commit_of(repo, ref)
        if commit and _changed_results(repo, commit.sha):
            backtest = _metrics(repo, commit.sha, "backtest")
            agent, over = backtest.get("agent") or {}, backtest.get("over_champion") or {}
            found.append(Challenger(branch, commit, agent, over, _metrics(repo, commit.sha, "gate")))
    return found


def _changed_results(repo: Path, commit: str) -> bool:
    try:
        base = git(repo, "merge-base", "HEAD", commit).decode().strip()
        return bool(git(repo, "diff", "--name-only", base, commit, "--", RESULTS).strip())
    except CannotCheck:  # a shallow clone, or no history in common
        return False


def _metrics(repo: Path, commit: str, name: str) -> dict[str, Any]:
    try:
        found = json.loads(git(repo, "show", f"{commit}:metrics/{name}.json"))
    except (CannotCheck, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def revocations(trust: Path, events: list[Event]) -> dict[str, list[Revocation]]:
    """What the log revokes, by manifest digest, in each of the trust policy's environments."""
    policy = load_policy(trust)
    found: dict[str, list[Revocation]] = {}
    for name, environment in policy.environments.items():
        for entry in revoked_by(events, policy.sharing(environment.revoked)):
            revoked = Revocation(name, entry.at, entry.reason)
            found.setdefault(entry.manifest_digest, []).append(revoked)
    return found


def promotions(events: list[Event], digest: str) -> list[Event]:
    """Every promotion of a release, in the log's order."""
    return [event for event in events if event.event == "promote" and event.manifest_digest == digest]


def verified(trace: dict[str, Any] | SekishoError | None) -> dict[str, Any] | None:
    """The trace where everything in it holds."""
    return trace if isinstance(trace, dict) else None
