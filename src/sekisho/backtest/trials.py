"""How many agents were trained before this one was picked: counted from git, not from memory.

A trial is one result of the ``train`` stage: the digest in ``dvc.lock`` of ``build/train``. Every commit that
any ref reaches counts: branches, remote branches, tags and DVC's experiments (``refs/exps``); and so does the
result that now lies in the working tree. A commit whose bars were of another market (another calendar or bar
length) says nothing about this one and does not count.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import yaml

from sekisho.errors import BacktestError

TRAIN_OUT = "build/train"
YamlLoader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml where it is built in: ten times as fast


@dataclass(frozen=True)
class Trials:
    """``sharpes``: annualised net Sharpe ratio of each earlier trial with a backtest, by train digest."""

    present: str  # train digest of the result in the working tree
    digests: frozenset[str]  # of all trials, the present one too
    sharpes: dict[str, float]
    history: Literal["full", "shallow", "none"]  # "shallow": older commits are not in this clone

    @property
    def count(self) -> int:
        return len(self.digests)


def count_trials(train: Path, repository: Path = Path(), *, market: tuple[str, str] | None = None) -> Trials:
    """Distinct ``train`` results in the history of ``repository`` and the one in ``train``; at least 1.

    ``market`` is (calendar, bar length) of the present bars; None counts the trials on every market.
    Without git the count is 1 and ``history`` is "none".

    Raises:
        BacktestError: the history is there and cannot be read.
    """
    present = folder_digest(train)
    inside = _git(repository, "rev-parse", "--is-shallow-repository")
    if inside is None:
        return Trials(present, frozenset({present}), {}, "none")
    digests, sharpes = {present}, {}
    for lock, metrics in _versions(repository):
        digest, traded = _read_lock(lock)
        if digest is None or (market and traded and traded != market):
            continue
        digests.add(digest)
        ratio = _sharpe(metrics, digest)
        if ratio is not None and digest != present:
            sharpes[digest] = ratio
    history: Literal["full", "shallow"] = "shallow" if inside.strip() == b"true" else "full"
    return Trials(present, frozenset(digests), dict(sorted(sharpes.items())), history)


def folder_digest(folder: Path) -> str:
    """The digest that DVC 3 gives a folder: MD5 of the JSON list of its files' MD5 and paths, then ``.dir``.

    Raises:
        BacktestError: no such folder, or nothing in it.
    """
    files = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file()}
    if not files:
        raise BacktestError(f"{folder}: no trained agent there", remedy="run `dvc repro train`")
    listing = [{"md5": _md5(files[name].read_bytes()), "relpath": name} for name in sorted(files)]
    return _md5(json.dumps(listing, sort_keys=True).encode()) + ".dir"


def _md5(content: bytes) -> str:
    return hashlib.md5(
        content, usedforsecurity=False
    ).hexdigest()  # DVC's choice; it names, it does not protect


def _versions(repository: Path) -> Iterator[tuple[bytes, bytes]]:
    """Distinct pairs (dvc.lock, metrics/backtest.json) over all commits; one git process reads them all."""
    # `--full-history` keeps commits on side branches whose result a merge discarded: they were tried too
    paths = ("dvc.lock", "metrics/backtest.json")
    commits = _git(repository, "rev-list", "--all", "--full-history", "--", *paths)
    if not commits:
        return
    names = commits.decode().split()
    wanted = "".join(f"{name}:./{path}\n" for name in names for path in paths)
    answer = _git(repository, "cat-file", "--batch", stdin=wanted.encode())
    assert answer is not None
    seen, offset = set(), 0
    for _ in names:
        pair = []
        for _ in range(2):
            content, offset = _object(answer, offset)
            pair.append(content)
        if tuple(pair) not in seen:
            seen.add(tuple(pair))
            yield pair[0], pair[1]


def _object(answer: bytes, offset: int) -> tuple[bytes, int]:
    """One object of ``git cat-file --batch`` (empty where the commit lacks it) and where the next begins."""
    end = answer.index(b"\n", offset)
    header = answer[offset:end].split()
    if header[-1] == b"missing" or len(header) != 3 or not header[2].isdigit():
        return b"", end + 1
    size = int(header[2])
    return answer[end + 1 : end + 1 + size], end + 1 + size + 1


def _read_lock(lock: bytes) -> tuple[str | None, tuple[str, str] | None]:
    """Train digest and market in one version of ``dvc.lock``; None for what that version lacks."""
    try:
        stages = yaml.load(lock, Loader=YamlLoader)["stages"]  # noqa: S506 (a safe loader)
        found = [str(out["md5"]) for out in stages["train"]["outs"] if out["path"] == TRAIN_OUT]
    except (yaml.YAMLError, KeyError, TypeError):
        return None, None  # an unfinished merge or an older layout: no trial can be read from it
    try:
        data = stages["validate"]["params"]["params.yaml"]["data"]
        market = (str(data["calendar"]), str(data["bar"]))
    except (KeyError, TypeError):
        market = None
    return (found[0] if found else None), market


def _sharpe(metrics: bytes, train: str) -> float | None:
    """The agent's ratio, where these metrics are of that ``train`` result: a commit may hold stale ones."""
    try:
        content = json.loads(metrics)
        return float(content["agent"]["sharpe"]) if content["opening"]["train"] == train else None
    except (ValueError, KeyError, TypeError):
        return None


def _git(repository: Path, *words: str, stdin: bytes = b"") -> bytes | None:
    """Standard output of git; None where there is no git or no repository, which is not an error."""
    environment = os.environ | {"LC_ALL": "C"}  # the message below is compared
    try:
        done = subprocess.run(
            ["git", "-C", str(repository), *words], input=stdin, capture_output=True, env=environment
        )
    except FileNotFoundError:
        return None
    if done.returncode == 0:
        return done.stdout
    reason = done.stderr.decode(errors="replace").strip()
    if "not a git repository" in reason:
        return None
    raise BacktestError(  # e.g. "dubious ownership" in a container: counting 1 would flatter the agent
        f"git {words[0]}: {reason}",
        remedy="the number of trials comes from the history: mend what git says above",
    )
