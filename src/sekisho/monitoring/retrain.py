"""From an alarm to a pull request that retrains on more data: one per cause, held and cooled down by rule.

The branch is made in a worktree of its own, so that the user's checkout stays as it is. Nothing here decides
anything: the pull request goes through the same gate and the same people as any other.
"""

from __future__ import annotations

import configparser
import datetime as dt
import json
import os
import re
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import yaml

from sekisho.backtest.splits import walk_forward
from sekisho.calendar import Calendar
from sekisho.data.panel import partitions
from sekisho.data.store import add_partitions
from sekisho.data.validate import BarEnds, judge, read_partition
from sekisho.errors import BacktestError, CannotCheck, DataError, Refused
from sekisho.forge.interface import Forge, PullRequest
from sekisho.forge.records import is_held
from sekisho.monitoring.evidence import alarm_table, distance_table, figure_table, series_table
from sekisho.monitoring.verdict import DRIFT, DUE, Alarm, Verdict
from sekisho.monitoring.words import ACTIONS
from sekisho.params import DataParams, Params, SplitParams

HOLD = "monitoring/hold.yaml"
SEEN = re.compile(r"^- seen up to (\d{4}-\d{2}-\d{2}): ([a-z-]+), .*$", re.MULTILINE)


@dataclass(frozen=True)
class Retrain:
    """What came of an alarm: the pull request's number, or None and the reason why there is none."""

    number: int | None
    branch: str
    key: str
    added: int  # partitions
    reason: str
    waits: bool = False  # held by people, or cooling down after a decision


def open_retrain(
    verdict: Verdict, plot: Path | None, bars: Path, repo: Path, forge: Forge, params: Params, remote: str
) -> Retrain:
    """Open the retrain pull request of a drift alarm, or update the one that is open.

    Args:
        verdict: of `check_predictions`.
        plot: picture of the evidence, if there is one.
        bars: folder of the live market's bars (raw contract); partitions up to the verdict's last session
            that
            ``data/bars`` lacks are added to it.
        repo: a checkout with the remote ``origin``; its branch, index and files are left alone.
        forge: where the pull request is opened, under the acting account.
        params: data, monitoring.
        remote: DVC remote that the new data are pushed to.

    Raises:
        CannotCheck: the verdict could not be reached; git or DVC fail.
        Refused: the alarm is one that retraining does not mend.
        DataError: the live bars break the contract or contradict ``data/bars``.
    """
    branch = f"retrain/{verdict.model}"
    if verdict.state == "cannot-judge":
        raise CannotCheck(verdict.sentence(), remedy="mend the data first: docs/en/runbooks/cannot-judge.md")
    if verdict.state == "ok":
        return Retrain(None, branch, "", 0, "no alarm: nothing to retrain for")
    alarm = verdict.cause()
    if alarm is None:
        raise Refused(
            "monitoring.retrain-cause",
            expected=f"an alarm of {', '.join((*DUE, *DRIFT))}",
            found=verdict.alarms[0].family,
            remedy="retraining mends neither the serving side nor a loss: follow that alarm's runbook",
        )
    # of this reference; the cooldown goes by the cause alone, as a retrained model has another reference
    key = f"retrain:{verdict.model}:{verdict.reference_digest[:12]}:{alarm.family}"
    _git(repo, "fetch", "--quiet", "--prune", "origin")
    pulls = [pull for pull in forge.list_pull_requests("all") if pull.branch == branch]
    open_pull = next((pull for pull in pulls if pull.state == "open"), None)
    told = {pull.number: _told(forge, pull.number) for pull in pulls}
    if reason := _reason_not_to(verdict, alarm.family, pulls, told, repo, forge, params):
        return Retrain(None, branch, key, 0, reason, waits=True)
    known = told[open_pull.number] if open_pull else []
    news = _seen_line(verdict, alarm)
    if _said(news) in map(_said, known):
        news = ""
    added, sessions, head = _extend_branch(
        verdict, news, branch, open_pull, bars, repo, forge, params.data, remote
    )
    use = _use_of_sessions(verdict, sessions, params.split)
    seen = sorted({*known, news} - {""})
    what = f"{alarm.family} drift" if alarm.family in DRIFT else alarm.family
    title = f"Retrain {verdict.model}: {what} since {alarm.session}"
    rollback = _previous_release(verdict, repo)
    number = forge.open_pull_request(branch, title, _body(verdict, seen, rollback, use, None), key)
    if plot and plot.is_file():
        link = forge.publish_images(number, {"drift": plot})["drift"]
        forge.open_pull_request(branch, title, _body(verdict, seen, rollback, use, link), key)
    if open_pull and head != open_pull.head_sha:  # the bot's own push starts nothing by itself
        forge.start("pr.yml", {"number": str(number), "head": head}, f"head-{head}")
    return Retrain(number, branch, key, added, "updated" if open_pull else "opened")


def _reason_not_to(
    verdict: Verdict,
    cause: str,
    pulls: list[PullRequest],
    told: Mapping[int, list[str]],
    repo: Path,
    forge: Forge,
    params: Params,
) -> str | None:
    """A hold in force (on the open request, or for all), or the same cause decided too recently.

    ``told``: see :func:`_told`, by request. A request's text decides nothing: whoever may write may edit it.
    """
    held = next((pull.number for pull in pulls if pull.state == "open" and is_held(forge, pull.number)), None)
    if held is not None:
        return f"pull request {held} is on hold: it is updated again after /resume"
    last = dt.date.fromisoformat(verdict.last_session or "")
    hold = _read_hold(repo)
    if hold and last <= hold[0]:
        return f"held until {hold[0]}: {hold[1]}"
    calendar = Calendar(params.data.calendar, params.data.bar)
    for pull in pulls:
        seen = [_said(line) for line in told[pull.number]]
        if pull.state != "open" and cause in {family for family, _ in seen}:  # the key names the last only
            decided = max(day for _, day in seen)
            since = len(calendar.sessions(decided, last)) - 1
            if since < params.monitoring.cooldown_sessions:
                return (
                    f"cooling down: pull request {pull.number} for the same cause was {pull.state} "
                    f"{since} sessions ago, the next may come after {params.monitoring.cooldown_sessions}"
                )
    return None


def _read_hold(repo: Path) -> tuple[dt.date, str] | None:
    """``until`` and ``reason`` of the hold file on origin's main branch; None where there is none.

    Raises:
        CannotCheck: a hold file that cannot be understood: nothing is opened then.
    """
    done = subprocess.run(
        ["git", "show", f"origin/main:{HOLD}"], cwd=repo, capture_output=True, text=True, check=False
    )
    if done.returncode:
        return None
    try:
        content = yaml.safe_load(done.stdout)
        until, reason = content["until"], content["reason"]
        if isinstance(until, dt.date) and isinstance(reason, str) and reason.strip():
            return until, reason
        problem = "until must be a date, reason a text"
    except (yaml.YAMLError, KeyError, TypeError) as error:
        problem = str(error)
    raise CannotCheck(f"{HOLD}: {problem}", remedy="write `until: YYYY-MM-DD` and `reason: …`")


def _extend_branch(
    verdict: Verdict,
    news: str,
    branch: str,
    open_pull: PullRequest | None,
    bars: Path,
    repo: Path,
    forge: Forge,
    data: DataParams,
    remote: str,
) -> tuple[int, list[dt.date], str]:
    """Commit the new partitions, and ``news`` of the alarm, to the branch; returns how many were added, every
    session that the branch's data then hold, and its head.

    An open request's branch is extended; else it begins at main anew. The forge makes the commit, not git:
    GitHub signs what its App commits so, and main takes signed commits only.
    """
    start = f"origin/{branch}" if open_pull else "origin/main"
    last = dt.date.fromisoformat(verdict.last_session or "")
    with _worktree(repo, start) as tree:
        _use_cache_of(repo, tree)
        _get_data(tree, remote)
        added, _ = add_partitions(tree / "data" / "bars", _live_partitions(bars, last, data))
        if added:
            _run(tree, "dvc", "add", "--quiet", "data")
            _run(tree, "dvc", "push", "--quiet", "--remote", remote, "data.dvc")
        elif not open_pull:
            raise DataError(
                f"{bars}: no partition up to {last} that data/bars lacks; there is nothing new to train on",
                remedy="bring the live market's bars up to date",
            )
        head = _git(tree, "rev-parse", "HEAD").strip()
        if not open_pull and (left := forge.branch_head(branch)):
            forge.delete_branch(branch, left)  # of a decided request
        if added or news:
            files = {"data.dvc": (tree / "data.dvc").read_bytes()}
            message = _message(verdict, added, news)
            head = forge.commit_files(branch, files, message, head, create=not open_pull)
        return added, _sessions_of(tree / "data" / "bars", data), head


def _sessions_of(bars: Path, params: DataParams) -> list[dt.date]:
    """Sessions that validation will find in raw partitions, in time order."""
    ends = BarEnds(Calendar(params.calendar, params.bar))
    found: set[dt.date] = set()
    for path in partitions(bars):
        found.update(judge(read_partition(path), str(path), ends, params).kept["session"].unique())
    return sorted(found)


def _use_of_sessions(verdict: Verdict, sessions: list[dt.date], split: SplitParams) -> str:
    """What the candidate (the agent of the last walk-forward window) does with the sessions judged here."""
    try:
        fold = walk_forward(sessions, split)[-1]
    except BacktestError as error:
        return f"With these data no candidate can be trained yet: {error.message}."
    first, last = verdict.first_session or "", verdict.last_session or ""
    new = [day for day in sessions if first <= str(day) <= last]
    windows = (fold.train, fold.validation, fold.test)
    trained, validated, tested = (sum(a <= day <= b for day in new) for a, b in windows)
    return (
        f"The candidate trains up to **{fold.train[1]}**. Of the {len(new)} sessions judged here that the "
        f"data hold, it trains on {trained}; {validated} choose its checkpoint, and {tested} are what it is "
        f"judged on (test window {fold.test[0]} to {fold.test[1]})."
    )


def _message(verdict: Verdict, added: int, news: str) -> str:
    what = f"{added} more partitions of bars, up to" if added else "no more bars; the alarm as of"
    return (
        f"Retrain {verdict.model}: {what} {verdict.last_session}\n\n"
        f"Alarm on {verdict.model}/{verdict.seq}, manifest sha256:{verdict.manifest_digest}\n\n{news}"
    ).rstrip()


def _live_partitions(bars: Path, last: dt.date, params: DataParams) -> Iterator[tuple[str, pl.DataFrame]]:
    """Raw partitions that lie wholly in sessions up to ``last``, each within the share of bad rows
    allowed.
    """
    ends = BarEnds(Calendar(params.calendar, params.bar))
    for path in partitions(bars):
        frame = read_partition(path)
        judged = judge(frame, str(path), ends, params)
        if len(judged.bad) > params.max_quarantine_share * len(frame):
            raise DataError(
                f"{path}: {len(judged.bad)} of {len(frame)} rows break the contract",
                remedy=f"see `sekisho data check {path.parent}`",
            )
        sessions = judged.kept["session"]
        if len(sessions) and sessions.max() <= last:  # type: ignore[operator]
            yield path.stem, frame


@contextmanager
def _worktree(repo: Path, start: str) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="sekisho-retrain-") as folder:
        tree = Path(folder) / "tree"
        _git(repo, "worktree", "add", "--quiet", "--detach", str(tree), start)
        try:
            yield tree
        finally:
            _git(repo, "worktree", "remove", "--force", str(tree))


def _use_cache_of(repo: Path, tree: Path) -> None:
    """Give the worktree the checkout's DVC cache and local settings, relative paths made absolute."""
    settings = configparser.ConfigParser()
    settings.read(repo / ".dvc" / "config.local", encoding="utf-8")
    for section in settings.values():
        for key in ("url", "dir"):
            if key in section and "://" not in section[key]:
                section[key] = str((repo / ".dvc" / section[key]).resolve())
    if "cache" not in settings:
        settings["cache"] = {}
    settings["cache"].setdefault("dir", str((repo / ".dvc" / "cache").resolve()))
    with (tree / ".dvc" / "config.local").open("w", encoding="utf-8") as file:
        settings.write(file)


def _get_data(tree: Path, remote: str) -> None:
    """Bring ``data/`` into the worktree: from the cache, else from the default remote, else from
    ``remote``.
    """
    for words in (("checkout",), ("pull",), ("pull", "--remote", remote)):
        try:
            _run(tree, "dvc", words[0], "--quiet", *words[1:], "data.dvc")
            return
        except CannotCheck as error:
            failure = error
    raise failure


def _previous_release(verdict: Verdict, repo: Path) -> str | None:
    """Digest of the manifest before the judged release's: where a rollback would go."""
    path = repo / "releases" / verdict.model / str(verdict.seq) / "manifest.json"
    try:
        previous = json.loads(path.read_text(encoding="utf-8"))["previous"]
    except (OSError, ValueError, KeyError):
        return None
    return str(previous) if previous else None


def _seen_line(verdict: Verdict, alarm: Alarm) -> str:
    return (
        f"- seen up to {verdict.last_session}: {alarm.family}, statistic {alarm.statistic:.3g} on "
        f"{alarm.session}, now {_now(verdict, alarm):.3g} of {alarm.threshold:.4g}"
    )


def _now(verdict: Verdict, alarm: Alarm) -> float:
    """The alarm's statistic after the last session."""
    if alarm.family in DRIFT:
        return (verdict.cusum if alarm.detector == "CUSUM" else verdict.levels)[str(verdict.last_session)]
    return alarm.statistic


def _told(forge: Forge, number: int) -> list[str]:
    """What a request was made and updated for, by the bot's own commits, which nobody can edit."""
    messages = forge.messages(number, forge.current_actor())
    return [match.group(0) for message in messages for match in SEEN.finditer(message)]


def _said(line: str) -> tuple[str, dt.date]:
    """Family and last session of a line."""
    match = SEEN.fullmatch(line)
    assert match
    return match[2], dt.date.fromisoformat(match[1])


def _body(verdict: Verdict, seen: list[str], rollback: str | None, use: str, plot: str | None) -> str:
    back = f"`sha256:{rollback}`" if rollback else "none: the first release; answer with the safe action"
    lines = [
        f"The scheduled check raised an alarm on **{verdict.model}/{verdict.seq}**. This branch adds the",
        "live market's bars to the data; the pipeline retrains and the gate judges as always: the model in",
        "production trades the same test window, and the difference of their paired returns is a rule of it.",
        "",
        f"By the policy: **{verdict.action}**, {ACTIONS[verdict.action]}.",
        "",
        use,
        "",
        *alarm_table(verdict),
        "",
        *([f"![Drift statistic against its threshold]({plot})", ""] if plot else []),
        *series_table(verdict),
        "",
        "| evidence | |",
        "| --- | --- |",
        "| data quality | no problem found; the log's hash chain is whole |",
        *figure_table(verdict),
        f"| rollback to | {back} |",
        *distance_table(verdict),
        *(f"\nNot watched: {series}." for series in verdict.unwatched),
        "",
        "**To decide:** has the market changed, or only what we measure of it? Does the retrained candidate",
        "pass the gate on the new window? Until then: keep serving, roll back, or take the safe action?",
        "",
        *seen,
    ]
    return "\n".join(lines) + "\n"


def _git(folder: Path, *words: str) -> str:
    return _run(folder, "git", *words)


def _run(folder: Path, *words: str) -> str:
    environment = {key: value for key, value in os.environ.items() if key not in ("GIT_DIR", "GIT_WORK_TREE")}
    try:
        done = subprocess.run(
            words,
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except FileNotFoundError as error:
        raise CannotCheck(f"{words[0]} is not installed", remedy="see `sekisho doctor`") from error
    if done.returncode:
        reason = (done.stderr or done.stdout).strip().splitlines()[-1:] or ["no message"]
        raise CannotCheck(f"{words[0]} {words[1]} failed: {reason[0]}", remedy="run it by hand to see more")
    return done.stdout
