"""What a release is called, and the one line by which an environment points at its release."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from sekisho.errors import CannotCheck
from sekisho.params import MODEL

SEQ = r"[1-9][0-9]{0,8}"
RELEASE = re.compile(f"{MODEL}/{SEQ}")  # a release's name
NO_RELEASE = "RELEASE=none\n"  # what an environment points at before its first promotion
LINE = re.compile(f"RELEASE=({MODEL})/({SEQ})@sha256:([0-9a-f]{{64}})\n")


@dataclass(frozen=True)
class Pointer:
    """What ``deploy/policy/<environment>/release.env`` says; ``digest`` is the manifest's sha256 (hex)."""

    model: str
    seq: int
    digest: str

    @property
    def release(self) -> str:
        """MODEL/SEQ."""
        return f"{self.model}/{self.seq}"

    def __str__(self) -> str:
        return f"{self.release}@sha256:{self.digest}"


def pointer_path(repo: Path, environment: str) -> Path:
    """The file that holds an environment's one line."""
    return repo / "deploy/policy" / environment / "release.env"


def parse_pointer(line: str) -> Pointer | None:
    """The release that the line names; None where it names none, or is not a pointer's line."""
    match = LINE.fullmatch(line)
    return Pointer(match[1], int(match[2]), match[3]) if match else None


def read_pointer(repo: Path, environment: str) -> Pointer | None:
    """The release an environment points at; None when it has none yet.

    Raises:
        CannotCheck: the file is not the one line it must be.
    """
    path = pointer_path(repo, environment)
    line = path.read_text(encoding="utf-8", errors="replace") if path.exists() else NO_RELEASE
    pointer = parse_pointer(line)
    if pointer is None and line != NO_RELEASE:
        raise CannotCheck(
            f"{path}: not one line RELEASE=<model>/<seq>@sha256:<digest>", remedy="restore it from git"
        )
    return pointer
