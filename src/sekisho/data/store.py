"""Writing bars: whole files and whole folders or nothing, the same bytes for the same rows."""

from __future__ import annotations

import fcntl
import io
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import polars as pl

from sekisho.dvc_files import file_md5
from sekisho.errors import FULL, DataError, StoreError

SHOWN = 3  # names in a message


def partition_bytes(frame: pl.DataFrame) -> bytes:
    """One Parquet file, small and free of dates or host names: equal frames give equal bytes."""
    buffer = io.BytesIO()
    frame.rechunk().write_parquet(buffer, compression="zstd", compression_level=3, statistics=False)
    return buffer.getvalue()


def write_partition(frame: pl.DataFrame, path: Path) -> None:
    """Write one Parquet file; polars' own file writer reports a full disk as a fault of the format."""
    path.write_bytes(partition_bytes(frame))


@contextmanager
def replaced(*targets: Path) -> Iterator[tuple[Path, ...]]:
    """Give one empty folder beside each target; when the block ends well, they take the targets' places.

    Whatever goes wrong inside, the targets stay as they were and nothing is left behind.

    Raises:
        DataError: no space left on the disk, a folder that may not be written, or that another writes.
    """
    try:
        with ExitStack() as held:
            fresh = tuple(held.enter_context(_beside(target, "new")) for target in targets)
            yield fresh
            for target, folder in zip(targets, fresh, strict=True):
                _swap(target, folder)
    except OSError as error:
        raise _explained(error, targets[0]) from error


def add_partitions(
    out: Path, parts: Iterable[tuple[str, pl.DataFrame]], known: Mapping[str, str] | None = None
) -> tuple[int, int]:
    """Add ``(label, frame)`` partitions to a folder; returns how many are new and how many were there.

    All are written beside the folder first; an existing partition is never changed. ``known``: MD5 by name of
    partitions that exist even where they are not on this disk, as DVC lists them.

    Raises:
        DataError: a partition exists with other rows (nothing is added then); the disk is full; another adds
            to this folder.
    """
    known = known or {}
    new, same, other, absent = [], 0, [], []
    try:
        with _beside(out, "add") as beside:
            for label, frame in parts:
                target = out / f"{label}.parquet"
                if not target.exists():
                    write_partition(frame, beside / target.name)
                    if target.name not in known:
                        new.append(target)
                    elif file_md5(beside / target.name) == known[target.name]:
                        same += 1
                    else:
                        absent.append(target)
                elif _holds(target, frame):
                    same += 1
                else:
                    other.append(target)
            _refuse(
                other,
                "exist with other rows",
                "history does not change silently: remove the old partitions in a commit of their own",
            )
            _refuse(
                absent,
                "are tracked with other bytes and are not on this disk",
                "`dvc pull` them, so that their rows can be compared, and run the command again",
            )
            out.mkdir(parents=True, exist_ok=True)
            for target in new:  # in time order, each whole: a killed run has added the earlier ones
                (beside / target.name).replace(target)
    except OSError as error:
        raise _explained(error, out) from error
    return len(new), same


def _refuse(faulty: list[Path], what: str, remedy: str) -> None:
    if faulty:
        names = ", ".join(map(str, faulty[:SHOWN])) + (" …" if len(faulty) > SHOWN else "")
        raise DataError(f"{names}: {len(faulty)} partitions {what}; nothing was added", remedy=remedy)


@contextmanager
def _beside(target: Path, what: str) -> Iterator[Path]:
    """An empty folder beside ``target`` that nobody else has; it is gone when the block ends.

    Raises:
        DataError: another process has it.
    """
    folder, lock = (target.parent / f".{target.name}.{end}" for end in (what, "lock"))
    folder.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # of a process that was killed: free
            held = lock.stat().st_ino == os.fstat(file.fileno()).st_ino
        except (BlockingIOError, FileNotFoundError):
            held = False
        if not held:
            raise DataError(
                f"{target}: another command is writing it (`fuser {lock}` names its process)",
                remedy="wait for it, then run the command again, or give another folder",
            )
        try:
            shutil.rmtree(folder, ignore_errors=True)  # left by a run that was killed
            folder.mkdir()
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            lock.unlink(missing_ok=True)


def _swap(target: Path, folder: Path) -> None:
    old = target.parent / f".{target.name}.old"
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        target.replace(old)
    folder.replace(target)
    shutil.rmtree(old, ignore_errors=True)


def _holds(target: Path, frame: pl.DataFrame) -> bool:
    try:
        return pl.read_parquet(target, glob=False).equals(frame)
    except pl.exceptions.PolarsError:
        return False


def _explained(error: OSError, target: Path) -> DataError:
    if error.errno in FULL:
        return StoreError(
            f"{target}: no space left on the disk; nothing was written",
            remedy=f"free some space under {target.parent}, then run the command again",
        )
    return DataError(f"{target}: {error.strerror or error}", remedy="check the folder and its permissions")
