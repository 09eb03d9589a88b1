"""What was made of a partition, kept under the digest of all that determines it: made once, never stale.

Two folders under one address: ``blobs/<sha256>`` holds bytes, ``records/<key>`` says in JSON which blobs and
figures belong to a key. The blobs of a record are put before it, so a record that is there is whole; what is
damaged or missing all the same is named in `PartitionStore.damaged` and counts as not there. Many machines
may work on one store: the same key is only ever given the same content. See docs/adr/0016-partitions.md.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).parent


def key_of(*parts: object) -> str:
    """SHA-256 of the parts as JSON, in order."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


@cache
def code_digest(files: tuple[str, ...], packages: tuple[str, ...]) -> str:
    """Digest of modules of this package (paths under it) and of the versions of the packages they rest on."""
    return key_of(
        {file: hashlib.sha256((SOURCE / file).read_bytes()).hexdigest() for file in files},
        {package: version(package) for package in packages},
    )


class PartitionStore:
    """Records and blobs under ``address``, a folder or ``s3://bucket/prefix``.

    ``damaged`` names every object that did not match its digest since the store was opened.
    """

    def __init__(self, address: str) -> None:
        from sekisho.objects import Objects  # needs fsspec, which not every image of the package has

        self.damaged: list[str] = []
        self._records = Objects.below(address, "records")
        self._blobs = Objects.below(address, "blobs")

    def put(self, key: str, record: dict[str, Any], blobs: Iterable[bytes]) -> None:
        """Keep a record and the blobs it names by their SHA-256.

        Raises:
            DataError: the store cannot take it; then the record is not there.
        """
        for blob in blobs:
            self._blobs.put(hashlib.sha256(blob).hexdigest(), blob)
        content = {"record": record, "digest": key_of(key, record)}
        self._records.put(key, json.dumps(content).encode())

    def record(self, key: str) -> dict[str, Any] | None:
        """The record of a key, or None where there is none that is whole.

        Raises:
            DataError: the store cannot be read.
        """
        content = self._records.get(key)
        if content is None:
            return None
        try:
            held = json.loads(content)
            record: dict[str, Any] = held["record"]
            whole = held["digest"] == key_of(key, record)
        except (ValueError, KeyError, TypeError):
            whole = False
        if not whole:
            self.damaged.append(f"{self._records.address}/{key}: damaged: not used, made anew")
            return None
        return record

    def blob(self, digest: str) -> bytes | None:
        """The bytes with this SHA-256, or None where they are not there or are others.

        Raises:
            DataError: the store cannot be read.
        """
        content = self._blobs.get(digest)
        if content is None:
            self.damaged.append(f"{self._blobs.address}/{digest}: gone: made anew")
            return None
        if hashlib.sha256(content).hexdigest() != digest:
            self.damaged.append(
                f"{self._blobs.address}/{digest}: does not match its digest: not used, made anew"
            )
            return None
        return content

    def keys(self) -> set[str]:
        """Keys of all records, whole or not.

        Raises:
            DataError: the store cannot be read.
        """
        return set(self._records.names())

    def blobs(self) -> set[str]:
        """Digests of all blobs, whole or not.

        Raises:
            DataError: the store cannot be read.
        """
        return set(self._blobs.names())
