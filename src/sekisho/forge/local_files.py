"""How the local forge keeps what it holds: git as an account of its own, and Markdown files with a head."""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from sekisho.errors import ForgeError
from sekisho.forge.markdown import one_line


def git(
    *words: str, cwd: Path, actor: str = "sekisho", stdin: bytes = b"", check: bool = True
) -> subprocess.CompletedProcess[bytes]:
    """Run git by nobody's settings but ours."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    environment |= {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1", "LC_ALL": "C"}
    for role in ("AUTHOR", "COMMITTER"):
        environment |= {f"GIT_{role}_NAME": actor, f"GIT_{role}_EMAIL": f"{actor}@local.invalid"}
    done = subprocess.run(
        ["git", *words], cwd=cwd, input=stdin, capture_output=True, env=environment, check=False
    )
    if check and done.returncode:
        reason = one_line(done.stderr.decode(errors="replace"))
        raise ForgeError(f"git {words[0]} failed: {reason}", remedy="see the message of git above")
    return done


def write(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    beside = path.with_name(f".{path.name}.tmp")
    beside.write_text(as_utf8(text), encoding="utf-8", newline="\n")
    beside.replace(path)


def write_comment(path: Path, front: Mapping[str, object], body: str) -> None:
    """A comment's file: what is known of it, then its text."""
    head = yaml.safe_dump(dict(front), sort_keys=False, allow_unicode=True)
    write(path, f"---\n{head}---\n{body}")


def read_comment(path: Path) -> tuple[dict[str, Any], str]:
    """What is known of a comment, and its text."""
    with path.open(encoding="utf-8", newline="") as file:
        parts = file.read().split("---\n", 2)
    if len(parts) != 3:
        raise ForgeError(
            f"{path}: not a comment of the local forge", remedy="restore the file; do not edit it"
        )
    return yaml.safe_load(parts[1]), parts[2]


def as_utf8(text: str) -> str:
    """What can be written as UTF-8: bytes of an argument that were not are replaced."""
    return text.encode(errors="replace").decode()


def sha256_of(text: str) -> str:
    """Hex digest of a text as UTF-8."""
    return hashlib.sha256(text.encode()).hexdigest()
