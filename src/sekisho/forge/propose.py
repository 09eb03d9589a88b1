"""From a checkout to a branch of the forge without git credentials: results and proposals of the bot."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

from sekisho.errors import CannotCheck
from sekisho.forge.interface import Forge
from sekisho.forge.markdown import one_line


def commit_results(forge: Forge, number: int, folder: Path) -> str | None:
    """Commit ``dvc.lock`` and ``metrics/*.json`` of a reproduced checkout to the pull request's branch.

    Nothing else of ``folder`` is taken, whatever it holds. Returns the new head, None if nothing differed.
    """
    pull = forge.get_pull_request(number)
    paths = [folder / "dvc.lock", *sorted((folder / "metrics").glob("*.json"))]
    found = {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths if path.is_file()}
    if "dvc.lock" not in found:
        raise CannotCheck(f"{folder}: no dvc.lock", remedy="run dvc repro first")
    changed = {path: data for path, data in found.items() if forge.read_file(pull.head_sha, path) != data}
    if not changed:
        return None
    message = f"Record the pipeline's results for {pull.head_sha[:12]}"
    return forge.commit_files(pull.branch, changed, message, pull.head_sha)


def propose(
    forge: Forge, checkout: Path, paths: Sequence[str], branch: str, title: str, body: str, key: str | None
) -> int:
    """Commit what changed under ``paths`` of a checkout to ``branch`` and open (or update) its pull request.

    Files that git ignores are left out. The branch begins at main; an existing one grows by a commit.

    Raises:
        CannotCheck: git cannot list the changes, or nothing changed under ``paths``.
        Refused: the branch moved meanwhile.
    """
    changed = _git(checkout, "diff", "--name-only", "--relative", "-z", "HEAD", "--", *paths)
    changed += _git(checkout, "ls-files", "--others", "--exclude-standard", "-z", "--", *paths)
    files = {name: (checkout / name).read_bytes() for name in changed if (checkout / name).is_file()}
    if not files:
        raise CannotCheck(f"nothing changed under {', '.join(paths)}", remedy="check paths and git status")
    head, main = forge.branch_head(branch), forge.branch_head("main")
    parent = head or main
    if parent is None:
        raise CannotCheck("the forge has no branch main", remedy="push main first")
    if any(forge.read_file(parent, name) != content for name, content in files.items()):
        forge.commit_files(branch, files, title, parent, create=head is None)
    return forge.open_pull_request(branch, title, body, key)


def _git(checkout: Path, *words: str) -> list[str]:
    """The file names that a git command lists, NUL-separated."""
    done = subprocess.run(["git", *words], cwd=checkout, capture_output=True, check=False)
    if done.returncode:
        reason = one_line(done.stderr.decode(errors="replace"))
        raise CannotCheck(f"git {words[0]} failed: {reason}", remedy="run it in a git checkout")
    return [name.decode() for name in done.stdout.split(b"\0") if name]
