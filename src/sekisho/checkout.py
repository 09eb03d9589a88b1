"""Git, asked in a checkout: only the commits themselves answer."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from sekisho.errors import CannotCheck
from sekisho.git import WHOLE_HISTORY


def git(checkout: Path, *words: str) -> bytes:
    """Output of a git command.

    Raises:
        CannotCheck: git is missing or fails; with its message.
    """
    quiet = "advice.graftFileDeprecated=false"  # git warns of the empty file that stands for no grafts
    try:
        command = ["git", "-c", quiet, "-C", str(checkout), *words]
        done = subprocess.run(command, capture_output=True, check=True, env={**os.environ, **WHOLE_HISTORY})
    except FileNotFoundError as error:
        raise CannotCheck("git is not installed", remedy="see `sekisho doctor`") from error
    except subprocess.CalledProcessError as error:
        message = error.stderr.decode(errors="replace").strip()
        raise CannotCheck(
            f"git {words[0]}: {message}", remedy="run it in a checkout that has its history"
        ) from error
    return done.stdout


def git_names(checkout: Path, *words: str) -> list[str]:
    """What a git command lists, NUL-separated (``-z``)."""
    return [name.decode() for name in git(checkout, *words).split(b"\0") if name]


def checked_out(checkout: Path) -> tuple[str, str]:
    """Commit and tree that are checked out."""
    commit, tree = git(checkout, "rev-parse", "HEAD", "HEAD^{tree}").decode().split()
    return commit, tree
