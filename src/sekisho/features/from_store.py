"""Single partitions, from raw bars through the store: what the machines of a fan-out do side by side.

Such a machine holds no ``build/bars``: it takes the validated bars of its partition and of those in the
lookback from the store, and validates the ones that are not there.
"""

from __future__ import annotations

import datetime as dt
import io
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from sekisho.calendar import Calendar
from sekisho.data.panel import in_time_order
from sekisho.data.tracked import check_tracked, listing
from sekisho.data.validate import BarEnds, validate_partition, validated_key
from sekisho.dvc_files import file_md5
from sekisho.errors import DataError
from sekisho.features.build import Part, feature_key, features_of
from sekisho.features.compute import lookback
from sekisho.params import Params
from sekisho.partition_store import PartitionStore

READERS = 16  # small records of a store asked for side by side
SHOWN = 3  # names in a message


@dataclass(frozen=True)
class RawPartition:
    """A partition of raw bars as DVC's listing or the folder has it, and what the store has of it."""

    label: str
    path: Path
    bytes: int | None  # None: DVC knows it, but it is not on this disk
    digest: str  # MD5, DVC's name of the file
    validated: bool
    featurised: bool


def raw_partitions(raw: Path, params: Params, store: PartitionStore) -> list[RawPartition]:
    """All partitions in time order. Where DVC tracks the folder its listing suffices: no file is read.

    Raises:
        DataError: no partitions; the store cannot be read.
    """
    digests = _digests(raw)
    own = [validated_key(raw / name, md5, params.data) for name, md5 in digests.items()]
    held, there = store.blobs(), store.keys()
    records = _records(store, there, own)
    parts = list[Part]()
    broken = False  # one before them is missing: how far their lookback reaches cannot be told at first
    keys = list[str]()  # of the features; "" where they cannot be told
    for name, record in zip(digests, records, strict=True):
        if record is None:
            parts, broken = [], True
            keys.append("")
            continue
        parts.append(_part(raw / name, record, b""))  # its bars are not asked for
        known = not broken or sum(part.bars for part in parts[:-1]) >= lookback(params.features)
        keys.append(feature_key(parts, len(parts) - 1, params.features) if known else "")
    found = []
    for (name, md5), bars, table in zip(digests.items(), records, _records(store, there, keys), strict=True):
        path = raw / name
        size = path.stat().st_size if path.is_file() else None
        validated = bars is not None and {bars["kept"], bars["bad"] or bars["kept"]} <= held
        featurised = table is not None and table["table"] in held
        found.append(RawPartition(path.stem, path, size, md5, validated, featurised))
    return found


def _records(
    store: PartitionStore, there: Collection[str], keys: Sequence[str]
) -> list[dict[str, Any] | None]:
    with ThreadPoolExecutor(READERS) as pool:
        return list(pool.map(lambda key: store.record(key) if key in there else None, keys))


def validate_some(raw: Path, labels: Collection[str], params: Params, store: PartitionStore) -> list[str]:
    """Validate the named partitions into the store; returns those that were not there.

    Raises:
        DataError: no partition of such a name; as `validate_partition`.
    """
    names = _named(raw, _digests(raw), labels)
    digests = check_tracked(raw, only=names)
    ends = BarEnds(Calendar(params.data.calendar, params.data.bar))
    done = {name: validate_partition(raw / name, digests[name], ends, params.data, store) for name in names}
    return [Path(name).stem for name, result in done.items() if result.made]


def featurise_some(raw: Path, labels: Collection[str], params: Params, store: PartitionStore) -> list[str]:
    """Compute the named partitions' features into the store; returns those that were not there.

    Raises:
        DataError: no partition of such a name; it or one before it is neither in ``store`` nor on this disk;
            as `validate_partition`.
    """
    made, digests = list[str](), _digests(raw)
    for name in _named(raw, digests, labels):
        parts = list(_with_lookback(raw, digests, name, params, store))[::-1]
        done = features_of(parts, [len(parts) - 1], params.features, store)
        made += [part.label for part, _, _, is_new in done if is_new]
    return made


def _digests(raw: Path) -> dict[str, str]:
    known = listing(raw)
    if known is None:
        known = {path.name: file_md5(path) for path in raw.glob("*.parquet")}
    names = in_time_order(name for name in known if name.endswith(".parquet") and "/" not in name)
    if not names:
        raise DataError(f"{raw}: no Parquet file there", remedy="run `dvc pull data.dvc`")
    return {name: known[name] for name in names}


def _named(raw: Path, digests: Mapping[str, str], labels: Collection[str]) -> list[str]:
    if unknown := sorted(set(labels) - {Path(name).stem for name in digests}):
        raise DataError(
            f"--partition {unknown[0]!r}: {raw} has no such partition",
            remedy="`sekisho data partitions` lists them",
        )
    return [name for name in digests if Path(name).stem in labels]


def _with_lookback(
    raw: Path, digests: Mapping[str, str], name: str, params: Params, store: PartitionStore
) -> Iterator[Part]:
    """The named partition and those before it as far as the lookback reaches, newest first."""
    names = list(digests)
    ends = BarEnds(Calendar(params.data.calendar, params.data.bar))
    needed = lookback(params.features)
    for one in names[names.index(name) :: -1]:
        part = _part(raw / one, *_validated(raw, one, digests[one], ends, params, store))
        yield part
        needed -= part.bars if one != name else 0
        if needed <= 0:
            return


def _validated(
    raw: Path, name: str, md5: str, ends: BarEnds, params: Params, store: PartitionStore
) -> tuple[dict[str, Any], bytes]:
    """Record and Parquet file of validated bars. Where the store has them, the raw file need not be here."""
    path = raw / name
    if path.is_file():
        done = validate_partition(path, check_tracked(raw, only=[name])[name], ends, params.data, store)
        return done.record, done.kept
    record = store.record(validated_key(path, md5, params.data))
    kept = store.blob(record["kept"]) if record else None
    if record is None or kept is None:
        raise DataError(
            f"{path}: not on this disk, and its validated bars are not in the store",
            remedy=f"`dvc pull {path}`, then run the command again",
        )
    return record, kept


def _part(path: Path, record: dict[str, Any], kept: bytes) -> Part:
    def read() -> pl.DataFrame:
        return pl.read_parquet(io.BytesIO(kept))

    first, last = (dt.date.fromisoformat(record["sessions"][end]) for end in (0, -1))
    return Part(path.stem, record["kept"], first, last, record["bars"], record["rows"], read)
