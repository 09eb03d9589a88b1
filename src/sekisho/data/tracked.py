"""Are the files of a DVC-tracked folder the ones that its ``.dvc`` file names?

DVC trusts its own record of a file by size and time: a damaged object of its cache is checked out, and even
locked, as if it were whole. So bars are hashed once more where they enter the pipeline.
"""

from __future__ import annotations

import configparser
import json
from collections.abc import Collection
from pathlib import Path

from sekisho.dvc_files import file_md5
from sekisho.errors import DataError
from sekisho.params import parse_yaml

SHOWN = 3  # files named in one message


def check_tracked(folder: Path, root: Path = Path(), only: Collection[str] | None = None) -> dict[str, str]:
    """Compare the files in ``folder`` with DVC's listing; returns the md5 of each file compared, by its name.

    A folder that DVC does not track passes, with its files hashed all the same. ``only``: names of files that
    are to be there; the others may be anything or nothing.

    Raises:
        DataError: a file is damaged, missing, or not in the listing; names it and its object in the cache.
    """
    expected = listing(folder, root)
    found = {p.relative_to(root / folder).as_posix() for p in (root / folder).rglob("*") if p.is_file()}
    if expected is None:
        return {name: file_md5(root / folder / name) for name in sorted(found if only is None else set(only))}
    top, pointer = _tracked_top(folder, root)
    if not found:
        raise DataError(f"{folder}: nothing there", remedy=f"run `dvc pull {pointer}`")
    odd = found ^ set(expected) if only is None else set(only) - (found & set(expected))
    if odd:
        names = ", ".join(str(folder / name) for name in sorted(odd)[:SHOWN])
        raise DataError(
            f"{pointer} names other files than {folder} has: {names}",
            remedy=f"`dvc add {top}` if you changed them on purpose, else `dvc checkout --force {pointer}`",
        )
    hashed = {name: file_md5(root / folder / name) for name in expected if only is None or name in only}
    for name, md5 in hashed.items():
        if md5 != expected[name]:
            raise DataError(
                f"{folder / name}: not the file of md5 {expected[name]} that {pointer} names",
                remedy=f"if you changed it on purpose: `dvc add {top}`; else it, or DVC's copy of it, is "
                f"damaged: remove {folder / name} and {_object(_cache(root), expected[name])}, "
                f"then `dvc pull {pointer}`",
            )
    return hashed


def listing(folder: Path, root: Path = Path()) -> dict[str, str] | None:
    """md5 of every file that DVC knows in ``folder``, by its path there, whether it is on this disk or not.

    None where DVC does not track the folder, or its listing was neither made nor pulled here.
    Source: DVC's file format, version 3 (a folder's md5 names a JSON list of its files' md5 and paths).
    """
    top, pointer = _tracked_top(folder, root)
    if not pointer:
        return None
    path = _object(_cache(root), str(parse_yaml((root / pointer).read_bytes())["outs"][0]["md5"]))
    if not path.is_file():
        return None
    inside = folder.relative_to(top).as_posix()
    prefix = "" if inside == "." else f"{inside}/"
    entries = json.loads(path.read_bytes())
    return {e["relpath"].removeprefix(prefix): e["md5"] for e in entries if e["relpath"].startswith(prefix)}


def _tracked_top(folder: Path, root: Path) -> tuple[Path, str]:
    """The tracked folder that ``folder`` is or lies in, and its ``.dvc`` file; empty where there is none."""
    for top in (folder, *folder.parents):
        if top.name and (root / f"{top}.dvc").is_file():
            return top, f"{top}.dvc"
    return folder, ""


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
