"""The local forge's bare repository: what its commits hold, and branches that move together or not at all."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from sekisho.errors import ForgeError
from sekisho.forge.interface import head_moved
from sekisho.forge.local_files import git
from sekisho.forge.markdown import one_line

# git calls it for every change of refs, deletions too (githooks(5)); names of refs are only text to it
HOOK = """#!/bin/sh
[ "$1" = committed ] || exit 0
now=$(date -u +%Y-%m-%dT%H:%M:%SZ)
while read -r old new ref; do
  case $ref in refs/heads/*) printf '%s %s %s\\n' "$now" "$new" "$ref" >> ../heads.log ;; esac
done
"""


class LocalOrigin:
    """What :class:`interface.Forge` says of commits and branches, for a bare repository in a folder.

    Every move of a branch is logged in ``heads.log`` beside it.
    """

    def __init__(self, origin: Path) -> None:
        self.origin = origin
        self._log_heads()

    def _log_heads(self) -> None:
        """Have origin keep its log of heads: the hook lies in the repository, so every push runs it."""
        hook = self.origin / "hooks" / "reference-transaction"
        if hook.is_file() and hook.read_text(encoding="utf-8") == HOOK:
            return
        hook.parent.mkdir(exist_ok=True)
        beside = hook.with_name(f".reference-transaction-{os.getpid()}")
        beside.write_text(HOOK, encoding="utf-8")
        beside.chmod(0o755)
        beside.replace(hook)
        self._run("config", "core.hooksPath", "hooks")  # a user's own setting would pass over it

    def _moves(self, branch: str) -> list[str]:
        """When the branch was moved, made or deleted (UTC), oldest first."""
        log = self.origin.with_name("heads.log")
        lines = log.read_text(encoding="utf-8").splitlines() if log.is_file() else []
        moves = [line.split(" ", 2) for line in lines]
        return [when for when, _, name in moves if name == f"refs/heads/{branch}"]

    def read_file(self, sha: str, path: str) -> bytes | None:
        spec = f"{self._commit(sha)}:{path}"
        if self._run("cat-file", "-e", spec, check=False).returncode:
            return None
        return self._run("cat-file", "blob", spec).stdout

    def read_folder(self, sha: str, folder: str) -> dict[str, bytes]:
        prefix = folder.rstrip("/") + "/"
        names = self._run("ls-tree", "-r", "-z", "--name-only", self._commit(sha), "--", prefix).stdout
        paths = [name.decode() for name in names.split(b"\0") if name]
        return {path[len(prefix) :]: self.read_file(sha, path) or b"" for path in paths}

    def tree(self, sha: str) -> str:
        return self._run("rev-parse", "--verify", f"{self._commit(sha)}^{{tree}}").stdout.decode().strip()

    def changed_files(self, base: str, head: str) -> set[str] | None:
        commits = (self._commit(base), self._commit(head))
        if self._run("merge-base", "--is-ancestor", *commits, check=False).returncode:
            return None
        names = self._run("diff", "--name-only", "--no-renames", "-z", *commits).stdout.split(b"\0")
        return {name.decode() for name in names if name}

    def branch_head(self, branch: str) -> str | None:
        if self._run("check-ref-format", "--branch", branch, check=False).returncode:
            raise ForgeError(f"{branch!r} is not a branch name", remedy="see git help check-ref-format")
        found = self._run("rev-parse", "--verify", "--quiet", f"refs/heads/{branch}^{{commit}}", check=False)
        return found.stdout.decode().strip() if found.returncode == 0 else None

    @contextmanager
    def _clone(self, commit: str) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(prefix="sekisho-forge-") as folder:
            git("clone", "--quiet", "--shared", "--no-checkout", str(self.origin), folder, cwd=self.origin)
            git("checkout", "--quiet", "--detach", commit, cwd=Path(folder))
            yield Path(folder)

    def _move(self, clone: Path, refs: Mapping[str, tuple[str, str | None]]) -> str:
        """Bring the clone's HEAD into origin and move all ``refs`` in one transaction, or none of them.

        ``refs``: branch -> (the commit it must be at, its new commit or None for the clone's HEAD).
        """
        commit = git("rev-parse", "HEAD", cwd=clone).stdout.decode().strip()
        waiting = f"refs/sekisho/{commit}"
        git("push", "--quiet", "--force", str(self.origin), f"HEAD:{waiting}", cwd=clone)
        lines = ["start", f"delete {waiting}"]
        lines += [f"update refs/heads/{ref} {new or commit} {old}" for ref, (old, new) in refs.items()]
        done = self._run("update-ref", "--stdin", stdin="\n".join([*lines, "commit\n"]).encode(), check=False)
        if done.returncode:
            raise head_moved("branches where they were read", one_line(done.stderr.decode(errors="replace")))
        return commit

    def _commit(self, sha: str) -> str:
        if not re.fullmatch(r"[0-9a-f]{40}", sha):
            raise ForgeError(f"{sha!r} is not a full commit id", remedy="give all 40 hex digits")
        return sha

    def _run(self, *words: str, stdin: bytes = b"", check: bool = True) -> subprocess.CompletedProcess[bytes]:
        return git(*words, cwd=self.origin, stdin=stdin, check=check)
