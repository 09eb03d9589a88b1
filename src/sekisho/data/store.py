"""Writing bars: whole files and whole folders or nothing, the same bytes for the same rows."""

from __future__ import annotations

import errno
import io
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import polars as pl

from sekisho.dvc_files import file_md5
from sekisho.errors import DataError

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
        DataError: no space left on the disk, or a folder that may not be written.
    """
    fresh = tuple(target.parent / f".{target.name}.new" for target in targets)
    try:
        for folder in fresh:
            shutil.rmtree(folder, ignore_errors=True)  # left by a run that was killed
            folder.mkdir(parents=True)
        yield fresh
        for target, folder in zip(targets, fresh, strict=True):
            _swap(target, folder)
    except OSError as error:
        raise _explained(error, targets[0]) from error
    finally:
        for folder in fresh:
            shutil.rmtree(folder, ignore_errors=True)


def add_partitions(
    out: Path, parts: Iterable[tuple[str, pl.DataFrame]], known: Mapping[str, str] | None = None
) -> tuple[int, int]:
    """Add ``(label, frame)`` partitions to a folder; returns how many are new and how many were there.

    All are written beside the folder first; an existing partition is never changed. ``known``: MD5 by name of
    partitions that exist even where they are not on this disk, as DVC lists them.

    Raises:
        DataError: a partition exists with other rows (nothing is added then); the disk is full.
    """
    known = known or {}
    beside = out.parent / f".{out.name}.add"
    new, same, other, absent = [], 0, [], []
    try:
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir(parents=True)
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
        if other:
            raise DataError(
                f"{', '.join(map(str, other[:SHOWN]))}{' …' if len(other) > SHOWN else ''}: "
                f"{len(other)} partitions exist with other rows; nothing was added",
                remedy="history does not change silently: remove the old partitions in a commit of their own",
            )
        if absent:
            raise DataError(
                f"{', '.join(map(str, absent[:SHOWN]))}{' …' if len(absent) > SHOWN else ''}: {len(absent)} "
                "partitions are tracked with other bytes and are not on this disk; nothing was added",
                remedy="`dvc pull` them, so that their rows can be compared, and run the command again",
            )
        out.mkdir(parents=True, exist_ok=True)
        for target in new:  # in time order, each whole: a killed run has added the earlier ones
            (beside / target.name).replace(target)
    except OSError as error:
        raise _explained(error, out) from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return len(new), same


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
    if error.errno == errno.ENOSPC:
        return DataError(
            f"{target}: no space left on the disk; nothing was written",
            remedy=f"free some space under {target.parent}, then run the command again",
        )
    return DataError(f"{target}: {error.strerror or error}", remedy="check the folder and its permissions")
