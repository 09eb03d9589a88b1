"""Are the files of a DVC-tracked folder the ones that its ``.dvc`` file names?

DVC trusts its own record of a file by size and time: a damaged object of its cache is checked out, and even
locked, as if it were whole. So bars are hashed once more where they enter the pipeline.
"""

from __future__ import annotations

import configparser
import hashlib
import json
from pathlib import Path

from sekisho.errors import DataError
from sekisho.params import parse_yaml

SHOWN = 3  # files named in one message


def check_tracked(folder: Path, root: Path = Path()) -> None:
    """Compare the files in ``folder`` with DVC's listing; a folder that DVC does not track passes.

    Source: DVC's file format, version 3 (a folder's md5 names a JSON list of its files' md5 and paths).

    Raises:
        DataError: a file is damaged, missing, or not in the listing; names it and its object in the cache.
    """
    for top in (folder, *folder.parents):
        pointer = root / f"{top}.dvc"
        if top.name and pointer.is_file():
            break
    else:
        return
    cache = _cache(root)
    listing = _object(cache, str(parse_yaml(pointer.read_bytes())["outs"][0]["md5"]))
    if not listing.is_file():  # tracked, but neither added nor pulled here: nothing to compare with
        return
    inside = folder.relative_to(top).as_posix()
    prefix = "" if inside == "." else f"{inside}/"
    entries = json.loads(listing.read_bytes())
    expected = {e["relpath"]: e["md5"] for e in entries if e["relpath"].startswith(prefix)}
    base = root / top
    found = {p.relative_to(base).as_posix() for p in (root / folder).rglob("*") if p.is_file()}
    if not found:
        raise DataError(f"{folder}: nothing there", remedy=f"run `dvc pull {pointer.name}`")
    if found != set(expected):
        names = ", ".join(str(top / name) for name in sorted(found ^ set(expected))[:SHOWN])
        raise DataError(
            f"{pointer.name} names other files than {folder} has: {names}",
            remedy=f"`dvc add {top}` if you changed them on purpose, "
            f"else `dvc checkout --force {pointer.name}`",
        )
    for name, md5 in expected.items():
        with (base / name).open("rb") as file:
            if hashlib.file_digest(file, "md5").hexdigest() != md5:
                raise DataError(
                    f"{top / name}: not the file of md5 {md5} that {pointer.name} names",
                    remedy=f"if you changed it on purpose: `dvc add {top}`; else it, or DVC's copy of it, is "
                    f"damaged: remove {top / name} and {_object(cache, md5)}, then `dvc pull {pointer.name}`",
                )


def _object(cache: Path, md5: str) -> Path:
    return cache / "files" / "md5" / md5[:2] / md5[2:]


def _cache(root: Path) -> Path:
    """DVC's cache folder as its configuration says; the machine's own file wins over the shared one."""
    for name in ("config.local", "config"):
        settings = configparser.ConfigParser()
        settings.read(root / ".dvc" / name, encoding="utf-8")
        if settings.has_option("cache", "dir"):
            return root / ".dvc" / settings.get("cache", "dir")  # relative ones count from .dvc
    return root / ".dvc" / "cache"
