"""By the real action's rules: paths in the artifact begin at the deepest folder that all patterns share."""

import fnmatch
import os
import shutil
import sys
from pathlib import Path

patterns = [line.strip() for line in os.environ["PATTERNS"].splitlines() if line.strip()]
wanted = [p for p in patterns if not p.startswith("!")]
unwanted = [p[1:] for p in patterns if p.startswith("!")]


def start(pattern: str) -> Path:
    """The part of a pattern before its first wildcard, as a folder."""
    parts = []
    for part in Path(pattern).parts:
        if "*" in part:
            break
        parts.append(part)
    path = Path(*parts)
    return path if path.is_dir() else path.parent


def excluded(path: Path) -> bool:
    hidden = os.environ["HIDDEN"] != "true" and any(part.startswith(".") for part in path.parts)
    own = [path, *path.parents]
    match = any(
        len(candidate.parts) == len(Path(p).parts) and fnmatch.fnmatchcase(candidate.as_posix(), p)
        for p in unwanted
        for candidate in own
    )
    return hidden or match


found = set()
for pattern in wanted:
    for path in Path().glob(pattern):
        found |= {p for p in [path, *path.rglob("*")] if p.is_file() and not excluded(p)}
root = Path(os.path.commonpath([start(p).absolute() for p in wanted]))
out = Path(os.environ["ACT_ARTIFACTS"]) / os.environ["GITHUB_RUN_ID"] / os.environ["NAME"]
for path in sorted(found):
    target = out / path.absolute().relative_to(root)
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(path, target)
print(f"{len(found)} files")
sys.exit(not found and os.environ["MISSING"] == "error")
