"""Bytes under a name, in a folder or in S3: each whole or not there, in a store that many machines share."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import fsspec

from sekisho.errors import FULL, DataError, StoreError

ADDRESSES = "give a folder, or s3://bucket/prefix"


class Objects:
    """The objects under one address: a folder's path, or ``s3://bucket/prefix``.

    A name is one path component, but in :meth:`tree` and :meth:`fetch`. S3 puts an object whole or not at
    all, and its client tries again by itself when a server answers 5xx; in a folder an object is written
    beside its place, synced, and renamed into it.

    Raises:
        DataError: no such kind of address.
        StoreError: by any method: it does not answer, or is full. Of other causes, its parent `DataError`.
    """

    def __init__(self, address: str) -> None:
        self.address = address.rstrip("/")
        kind, _, place = self.address.partition(":")
        if not self.address or (kind == "s3" and not place.strip("/")):
            raise DataError(f"no store is at {address!r}", remedy=ADDRESSES)
        try:
            self._files, self._root = fsspec.url_to_fs(self.address)
        except (ValueError, ImportError) as error:  # of another kind, or one whose client is not installed
            raise DataError(f"{address}: {error}", remedy=ADDRESSES) from error
        self._local = "file" in self._files.protocol

    @classmethod
    def below(cls, store: str, folder: str) -> Objects:
        """Those of one folder of a store.

        Raises:
            DataError: no such kind of address, or none.
        """
        return cls(f"{cls(store).address}/{folder}")

    def put(self, name: str, content: bytes) -> None:
        """Write one object, in place of another of this name.

        Raises:
            DataError: the store cannot take it (names address and cause); what was there is still there.
        """
        try:
            if not self._local:
                self._files.pipe_file(f"{self._root}/{name}", content)
                return
            folder = Path(self._root)
            folder.mkdir(parents=True, exist_ok=True)
            beside = folder / f".{name}.{uuid4().hex}"  # containers have the same process numbers
            try:
                with beside.open("wb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
                beside.replace(folder / name)
            finally:
                beside.unlink(missing_ok=True)
        except Exception as error:
            raise self._explained(error, name) from error

    def get(self, name: str) -> bytes | None:
        """The object's bytes, or None where there is none.

        Raises:
            DataError: the store cannot be read; names address and cause.
        """
        try:
            content: bytes = self._files.cat_file(f"{self._root}/{name}")
            return content
        except FileNotFoundError:
            return None
        except Exception as error:
            raise self._explained(error, name) from error

    def names(self) -> list[str]:
        """All names, ascending; none where the store is not there yet.

        Raises:
            DataError: the store cannot be read; names address and cause.
        """
        self._files.invalidate_cache()
        try:
            found: list[Any] = self._files.ls(self._root, detail=False)
        except FileNotFoundError:
            return []
        except Exception as error:
            raise self._explained(error, "") from error
        names = (str(path).rstrip("/").rsplit("/", 1)[-1] for path in found)
        return sorted(name for name in names if not name.startswith("."))

    def tree(self) -> dict[str, str]:
        """Every object of an S3 address, folders within it included, by its path below it: size and ETag,
        which changes with the content.

        Raises:
            DataError: it cannot be listed, or a name leads out of a folder; names address and cause.
        """
        self._files.invalidate_cache()
        try:
            found: dict[str, Any] = self._files.find(self._root, detail=True)
        except Exception as error:
            raise self._explained(error, "") from error
        files = {
            path: about for path, about in found.items() if not path.endswith("/")
        }  # no console's folder
        names = {path.removeprefix(self._root).strip("/"): about for path, about in files.items()}
        if wrong := next((name for name in names if {"", ".", ".."} & set(name.split("/"))), None):
            raise DataError(
                f"{self.address}/{wrong}: not a name that a file may have", remedy="take that object away"
            )
        return {name: f"{about['size']} {about['ETag']}" for name, about in sorted(names.items())}

    def fetch(self, names: Sequence[str], folder: Path) -> None:
        """Copy objects of :meth:`tree` to the same paths below ``folder``, several at once.

        Raises:
            DataError: one cannot be read; names address and cause.
        """
        try:
            self._files.get(
                [f"{self._root}/{name}" for name in names], [str(folder / name) for name in names]
            )
        except Exception as error:
            raise self._explained(error, names[0] if len(names) == 1 else "") from error

    def remove(self, name: str) -> None:
        """Take one object away; no fault where there is none.

        Raises:
            DataError: the store does not let it go; names address and cause.
        """
        try:
            self._files.rm_file(f"{self._root}/{name}")
        except FileNotFoundError:
            return
        except Exception as error:
            raise self._explained(error, name) from error

    def _explained(self, error: Exception, name: str) -> DataError:
        """Stores fail by many classes (OSError, botocore's, aiohttp's), none of which a caller could mend."""
        cause = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
        if self._local:
            passes = isinstance(error, OSError) and error.errno in FULL
            remedy = "free some space there" if passes else "check that it is a folder, and its permissions"
        else:
            # of S3's 4xx: it has answered; or an address or a setting that its client cannot read
            passes = not isinstance(error, (FileNotFoundError, PermissionError, ValueError))
            remedy = "check the address, the network and the role's rights"
        return (StoreError if passes else DataError)(
            f"{self.address}/{name}: {cause or type(error).__name__}", remedy=f"{remedy}, then try again"
        )
