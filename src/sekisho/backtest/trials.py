"""How many agents were trained before this one was picked: counted from git, not from memory.

A trial is one candidate of one result of the ``train`` stage: the digest in ``dvc.lock`` of ``build/train``
and ``opening.candidate`` of the backtest. Seeds in another order give the same training result and another
candidate: choosing among them is choosing. A training result without a backtest is one trial. Every commit
that any ref reaches counts: branches, remote branches, tags and DVC's experiments (``refs/exps``); and so
does the result that is judged. A commit whose bars were of another market (another bar length, or trading
hours that are mostly other ones) says nothing about this one and does not count. Session returns of earlier
trials come from the same commits, where they are those whose digest the backtest wrote; a trial without them
counts all the same.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import io
import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl
import yaml

from sekisho.calendar import Calendar
from sekisho.errors import BacktestError, ParamsError
from sekisho.git import WHOLE_HISTORY

TRAIN_OUT = "build/train"
MOST_RETURN = 10.0  # in one session, a fraction: the returns of a trial beyond it are not believed
LOCK, METRICS, RETURNS = "dvc.lock", "metrics/backtest.json", "metrics/returns.csv"
MOST_RATIO = 1e3  # annualised Sharpe ratio, either sign: beyond it the variance between trials means nothing
MOST_BYTES = 1 << 24  # of a file in history; a larger one counts as absent
DEEPEST = 30  # collections in collections in a dvc.lock: libyaml's recursion ends the process, not the parse
# words alone, which is all that is read here; libyaml where it is built in: ten times as fast
YamlLoader = getattr(yaml, "CBaseLoader", yaml.BaseLoader)


@dataclass(frozen=True)
class Trials:
    """Each is named ``<train digest>:<candidate>``, or by its train digest alone where no backtest is known.

    ``sharpes``: annualised net Sharpe ratio of each earlier trial with a backtest.
    ``returns``: session and agent of its metrics/returns.csv, where the commit holds the one that its
    backtest wrote."""

    present: str  # train digest of the result that is judged
    names: frozenset[str]  # of all trials, the present one too
    sharpes: dict[str, float]
    returns: dict[str, pl.DataFrame]
    history: Literal["full", "shallow", "none"]  # "shallow": this clone lacks commits or branches

    @property
    def count(self) -> int:
        return len(self.names)


def count_trials(
    present: str,
    repository: Path = Path(),
    *,
    candidate: str | None = None,
    market: tuple[str, str] | None = None,
) -> Trials:
    """Distinct trials in the history of ``repository`` and the present one; at least 1.

    ``present`` is its `folder_digest`, ``candidate`` its ``opening.candidate``, None before a backtest.
    ``market`` is (calendar, bar length) of the present bars; None counts the trials on every market. Without
    git the count is 1 and ``history`` is "none".

    Raises:
        BacktestError: the history is there and cannot be read.
    """
    name = _name(present, candidate)
    inside = _git(repository, "rev-parse", "--is-shallow-repository")
    if inside is None:
        return Trials(present, frozenset({name}), {}, {}, "none")
    found, sharpes, returns = {(present, candidate)}, {}, {}
    for lock, metrics, table in _versions(repository):
        digest, traded = _read_lock(lock)
        if digest is None or (market and traded and not _same_market(market, traded)):
            continue
        chosen, ratio, written = _read_metrics(metrics, digest)
        found.add((digest, chosen))
        trial = _name(digest, chosen)
        if ratio is not None and trial != name:
            sharpes[trial] = ratio
            series = _read_returns(table) if hashlib.sha256(table).hexdigest() == written else None
            if series is not None:
                returns[trial] = series
    judged = {digest for digest, chosen in found if chosen is not None}
    names = {_name(*trial) for trial in found if trial[1] is not None or trial[0] not in judged}
    history: Literal["full", "shallow"] = (
        "full" if inside.strip() == b"false" and _all_branches(repository) else "shallow"
    )
    return Trials(
        present, frozenset(names), dict(sorted(sharpes.items())), dict(sorted(returns.items())), history
    )


def _all_branches(repository: Path) -> bool:
    """Whether every remote is fetched with all its branches: a clone of one does not know all trials."""
    settings = (_git(repository, "config", "--list") or b"").decode(errors="replace").splitlines()
    fetched: dict[str, list[str]] = {}
    for key, _, value in (line.partition("=") for line in settings):
        if key.startswith("remote.") and key.endswith(".fetch"):
            fetched.setdefault(key, []).append(value.removeprefix("+").partition(":")[0])
    return all({"refs/heads/*", "refs/*"} & set(sources) for sources in fetched.values())


def _name(train: str, candidate: str | None) -> str:
    return train if candidate is None else f"{train}:{candidate}"


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


def _versions(repository: Path) -> Iterator[tuple[bytes, bytes, bytes]]:
    """Distinct (dvc.lock, metrics/backtest.json, metrics/returns.csv) over all commits.

    Two git processes in all: one names the files' objects in every commit, one reads each object once.
    """
    # `--full-history` keeps commits on side branches whose result a merge discarded: they were tried too
    paths = (LOCK, METRICS, RETURNS)
    commits = _git(repository, "rev-list", "--all", "--full-history", "--", *paths)
    if not commits:
        return
    wanted = "".join(f"{name}:./{path}\n" for name in commits.decode().split() for path in paths)
    answer = _git(repository, "cat-file", "--batch-check", stdin=wanted.encode())
    assert answer is not None
    lines = [line.split() for line in answer.splitlines()]
    objects = [
        line[0] if len(line) == 3 and line[1] == b"blob" and int(line[2]) <= MOST_BYTES else b""
        for line in lines
    ]
    versions = sorted(set(zip(*[iter(objects)] * len(paths), strict=True)))
    contents = _read_objects(repository, sorted(set(objects) - {b""}))
    for lock, metrics, returns in versions:
        yield contents[lock], contents[metrics], contents[returns]


def _read_objects(repository: Path, names: list[bytes]) -> dict[bytes, bytes]:
    """Contents by object name; empty for the empty name, which stands for a file that a commit lacks."""
    answer = _git(repository, "cat-file", "--batch", stdin=b"".join(name + b"\n" for name in names))
    assert answer is not None
    contents, offset = {b"": b""}, 0
    for name in names:
        end = answer.index(b"\n", offset)
        size = int(answer[offset:end].split()[2])
        contents[name] = answer[end + 1 : end + 1 + size]
        offset = end + 1 + size + 1
    return contents


def _read_lock(lock: bytes) -> tuple[str | None, tuple[str, str] | None]:
    """Train digest and market in one version of ``dvc.lock``; None for what that version lacks."""
    try:
        _require_shallow(lock)
        stages = yaml.load(lock, Loader=YamlLoader)["stages"]  # noqa: S506 (a safe loader)
        found = [str(out["md5"]) for out in stages["train"]["outs"] if out["path"] == TRAIN_OUT]
    except (yaml.YAMLError, ValueError, KeyError, TypeError):
        return None, None  # an unfinished merge or an older layout: no trial can be read from it
    try:
        data = stages["validate"]["params"]["params.yaml"]["data"]
        market = str(data["calendar"]), str(data["bar"])
    except (KeyError, TypeError):
        market = None
    return (found[0] if found else None), market


def _require_shallow(lock: bytes) -> None:
    """ValueError where collections lie deeper than `DEEPEST`; the parser itself does not recurse."""
    depth = 0
    for event in yaml.parse(lock, Loader=YamlLoader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST:
            raise ValueError(f"more than {DEEPEST} collections in each other")


@cache
def _same_market(one: tuple[str, str], other: tuple[str, str]) -> bool:
    """Whether bars of one (calendar, bar length) may be the other's: as long, most at the same moments.

    By the moments and not by the names: JPX is an alias of XTKS, and XPAR and XAMS trade at the same hours,
    so that the same bars pass under either. A calendar that nobody knows or can use may be any.
    """
    if one[1] != other[1]:
        return False
    try:
        moments = [_moments(*market) for market in (one, other)]
    except (
        ParamsError,
        NotImplementedError,
        ValueError,
    ):  # the latter two from calendars that are unfinished
        return True  # one branch's typing error must not stop everybody's count
    return 2 * len(moments[0] & moments[1]) > len(moments[0] | moments[1])


@cache
def _moments(calendar: str, bar: str) -> frozenset[np.datetime64]:
    """Ends of all bars of a quarter of a year, UTC."""
    exchange = Calendar(calendar, bar)
    sessions = exchange.sessions(dt.date(2025, 1, 1), dt.date(2025, 3, 31))
    return frozenset(moment for session in sessions for moment in exchange.closes(session))


def _read_metrics(metrics: bytes, train: str) -> tuple[str | None, float | None, str | None]:
    """The candidate, its ratio and the sha256 of its returns.

    None where these metrics are not of that ``train`` result: a commit may hold stale ones.

    The ratio is None where it is not finite or beyond `MOST_RATIO`: one NaN would make the variance across
    all trials NaN.
    """
    try:
        content = json.loads(metrics)
        opening = content["opening"]
        if opening["train"] != train:
            return None, None, None
        candidate = None if opening.get("candidate") is None else str(opening["candidate"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None, None, None
    written = content.get("returns_sha256")
    try:
        ratio = float(content["agent"]["sharpe"])
    except (ValueError, KeyError, TypeError, OverflowError):
        return candidate, None, written
    return candidate, ratio if abs(ratio) <= MOST_RATIO else None, written  # false for NaN


def _read_returns(table: bytes) -> pl.DataFrame | None:
    """Session returns of the agent; None where the commit has none that can be read.

    Whoever can push a branch writes this file: a cell that is no finite number, or whose square is none, must
    neither stop everybody's count nor reach the ranks, where NaN makes the probability of overfitting 0.
    """
    try:
        frame = pl.read_csv(io.BytesIO(table), infer_schema_length=None, try_parse_dates=True)
        frame = frame.select(pl.col("session").cast(pl.Date), pl.col("agent").cast(pl.Float64))
    except pl.exceptions.PolarsError:
        return None
    return frame if (frame["agent"].abs() < MOST_RETURN).fill_null(False).all() else None  # NaN is above


def _git(repository: Path, *words: str, stdin: bytes = b"") -> bytes | None:
    """Standard output of git; None where there is no git or no repository, which is not an error."""
    environment = os.environ | WHOLE_HISTORY | {"LC_ALL": "C"}  # the message below is compared
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
