"""From a checkout to a branch of the forge without git credentials: results and proposals of the bot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from sekisho.checkout import checked_out, git_names
from sekisho.errors import CannotCheck, Refused
from sekisho.forge.interface import Forge, PullRequest, head_moved, same_actor
from sekisho.forge.markdown import quoted
from sekisho.forge.records import check_not_held

RESULTS = (".json", ".csv")  # what stages write under metrics/


def commit_results(forge: Forge, number: int, folder: Path, head: str) -> str | None:
    """Commit ``dvc.lock`` and the files of ``metrics/`` (JSON, CSV) of a reproduced checkout to the branch.

    Nothing else of ``folder`` is taken, whatever it holds. Returns the commit, None if nothing differed.

    Args:
        head: the commit that was reproduced.

    Raises:
        CannotCheck: no dvc.lock.
        Refused: the pull request is on hold, or its head is another by now than ``head``, or ``head`` with
            these results: of a run of the same job that broke off later.
    """
    pull, found = forge.get_pull_request(number), read_results(folder)
    check_not_held(forge, number)
    if pull.head_sha != head and not holds_results(forge, head, pull.head_sha, found):
        raise head_moved(head, pull.head_sha)
    changed = {path: data for path, data in found.items() if forge.read_file(pull.head_sha, path) != data}
    if not changed:
        return None
    return forge.commit_files(pull.branch, changed, f"Record the pipeline's results for {head[:12]}", head)


def read_results(folder: Path) -> dict[str, bytes]:
    """``dvc.lock`` and the files of ``metrics/`` (JSON, CSV) of a reproduced checkout, by path.

    Raises:
        CannotCheck: no dvc.lock.
    """
    metrics = (path for path in (folder / "metrics").glob("*") if path.suffix in RESULTS)
    paths = [path for path in (folder / "dvc.lock", *sorted(metrics)) if path.is_file()]
    found = {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}
    if "dvc.lock" not in found:
        raise CannotCheck(f"{folder}: no dvc.lock", remedy="run dvc repro first")
    return found


def holds_results(forge: Forge, reproduced: str, head: str, results: Mapping[str, bytes]) -> bool:
    """Whether ``head`` is the reproduced commit with exactly these results, and nothing else, added."""
    changed = forge.changed_files(reproduced, head)
    return changed is not None and changed <= results.keys() and _holds(forge, head, results)


@dataclass(frozen=True)
class Proposal:
    """What the bot proposes: a branch, the words about it, and the cause that it is the only request for.

    ``exclusive``: an open request of the branch that proposes something else is left alone, and this one
    refused; else it grows by a commit. ``replaces``: a branch whose open request gives way to this one.
    """

    branch: str
    title: str
    body: str
    key: str | None
    exclusive: bool
    replaces: str | None = None


def propose(forge: Forge, checkout: Path, paths: Sequence[str], proposal: Proposal) -> int:
    """Commit what changed under ``paths`` of a checkout to a branch and open (or update) its pull request.

    Files that git ignores are left out. The branch begins at the commit that the checkout is at, so that git
    shows what main got since as a conflict; that of an open request grows by a commit. Two proposals at the
    same time race for the branch: the forge takes one.

    Raises:
        CannotCheck: git cannot list the changes, or nothing changed under ``paths``.
        Refused: main has changed under ``paths`` since the checkout; the branch moved meanwhile, is on hold
            or taken (``exclusive``), or another one is open for the key.
    """
    files, base = _changed(checkout, paths), checked_out(checkout)[0]
    branch, head = proposal.branch, forge.branch_head(proposal.branch)
    earlier = [pull for pull in forge.list_pull_requests("all") if pull.branch == branch]
    open_one = next((pull for pull in earlier if pull.state == "open"), None)
    decided = open_one is None and head in {pull.head_sha for pull in earlier}
    fresh = head is None or decided or not _holds(forge, head, files)
    if fresh:
        if open_one and proposal.exclusive:
            raise _taken(proposal, open_one)
        if open_one:
            check_not_held(forge, open_one.number)
        _check_base(forge, base, paths)
    _give_way(forge, proposal)
    if fresh and head and open_one:
        forge.commit_files(branch, files, proposal.title, head)
    elif fresh:
        if head:
            forge.delete_branch(branch, head)  # left over: the proposal begins anew
        forge.commit_files(branch, files, proposal.title, base, create=True)
    return forge.open_pull_request(branch, proposal.title, proposal.body, proposal.key)


def _give_way(forge: Forge, proposal: Proposal) -> None:
    """One open request for a key: another branch's is replaced, or else this one refused."""
    if proposal.key is None:
        return
    me = forge.current_actor()
    for pull in forge.list_pull_requests("open"):
        mine = pull.key == proposal.key and same_actor(pull.author, me)  # anybody can write a key
        if not mine or pull.branch == proposal.branch:
            continue
        if pull.branch != proposal.replaces:
            raise _taken(proposal, pull)
        check_not_held(forge, pull.number)
        # without the key at once: GitHub closes the request of a deleted branch a moment later
        forge.open_pull_request(pull.branch, pull.title, f"Gave way to {quoted(proposal.title)}.")
        forge.delete_branch(pull.branch, pull.head_sha)


def _taken(proposal: Proposal, pull: PullRequest) -> Refused:
    return Refused(
        "forge.one-proposal-at-a-time",
        expected=f"{quoted(proposal.title)} alone",
        found=f"pull request {pull.number}, {quoted(pull.title)}, is open for {pull.branch!r}",
        remedy=f"merge or close pull request {pull.number} first",
    )


def _check_base(forge: Forge, base: str, paths: Sequence[str]) -> None:
    """Main holds the checkout's commit and has changed nothing under ``paths`` since: whole files are
    proposed, so what was added to one meanwhile would be lost.
    """
    main = forge.branch_head("main")
    if main is None:
        raise CannotCheck("the forge has no branch main", remedy="push main first")
    since = forge.changed_files(base, main)
    lost = [name for name in sorted(since or ()) if any(PurePosixPath(name).is_relative_to(p) for p in paths)]
    if since is None or lost:
        raise Refused(
            "forge.proposal-from-main",
            expected=f"{', '.join(paths)} as main has it at {main}",
            found=f"{base}, before {quoted(', '.join(lost))}" if lost else f"{base}, which is not main's",
            remedy="start the job anew from main as it is now",
        )


def _changed(checkout: Path, paths: Sequence[str]) -> dict[str, bytes]:
    changed = git_names(checkout, "diff", "--name-only", "--relative", "-z", "HEAD", "--", *paths)
    changed += git_names(checkout, "ls-files", "--others", "--exclude-standard", "-z", "--", *paths)
    files = {name: (checkout / name).read_bytes() for name in changed if (checkout / name).is_file()}
    if not files:
        raise CannotCheck(f"nothing changed under {', '.join(paths)}", remedy="check paths and git status")
    return files


def _holds(forge: Forge, sha: str, files: Mapping[str, bytes]) -> bool:
    return all(forge.read_file(sha, name) == content for name, content in files.items())
