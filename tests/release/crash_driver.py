"""Run one command again and again, killed at its first write, its second, … until it ends by itself.

    python -m tests.release.crash_driver COMMAND START FOLDER

Every run works in its own copy of START, FOLDER/1, FOLDER/2, …, the last one unharmed. A process of its own,
because polars cannot be forked once it has been used: this one only imports it.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import polars  # noqa: F401 (imported once, not in every child)
from tests.release.workshop import COMMANDS, Workshop

import sekisho.release.bundle  # noqa: F401 (same)

WRITES = {"os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.chmod", "os.truncate"}
CHANGING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


def kill_at(moment: int, folder: Path) -> None:
    """Make this process kill itself before its moment-th write below ``folder``."""
    calls = 0

    def count() -> None:
        nonlocal calls
        calls += 1
        if calls == moment:
            os.kill(os.getpid(), signal.SIGKILL)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event in WRITES or (event == "open" and arguments[2] & CHANGING):
            name = arguments[0]
            if isinstance(name, int) or str(folder) in os.path.realpath(os.fsdecode(name)):
                count()

    real = os.fsync

    def fsync(descriptor: int) -> None:
        count()
        real(descriptor)

    os.fsync = fsync
    sys.addaudithook(hook)


def main(command: str, start: Path, folder: Path) -> None:
    moment, status = 0, 1
    while status != 0:
        moment += 1
        repo = Path(shutil.copytree(start, folder / str(moment), symlinks=True)).resolve()
        child = os.fork()
        if child == 0:
            kill_at(moment, repo)
            COMMANDS[command](Workshop(repo))
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if status not in (0, signal.SIGKILL):
            sys.exit(f"moment {moment}: ended with status {status}")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
