"""What a check leaves for the next one, so that its work grows with new sessions only.

One folder holds the digest of every file read, by the state it was in (size, times of change); the chains
that were verified; and one record for each session, named by the digests of all that it was made from. A file
that was only copied is hashed again and nothing more. Whoever may write this folder is believed:
`sekisho audit trace` verifies the log anew; monitoring/remote.py says who may write it in production.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sekisho.monitoring.records import SessionRecord, load_record, save_record
from sekisho.serving.predictions import ChainSummary, batches, verify_chain

if TYPE_CHECKING:
    from sekisho.monitoring.remote import RemoteLog

FOLDER = ".kept"  # beside the sessions, where no other folder is named
FILES, CHAINS = "files.json", "chains.json"


class Kept:
    """The memory of earlier checks in ``folder``; a damaged or missing one only costs time.

    ``remote``: where the log's files come from, if not all of them are here.
    """

    def __init__(self, folder: Path, remote: RemoteLog | None = None) -> None:
        self._folder, self._remote = folder, remote
        self._files: dict[str, list[Any]] = _load(folder / FILES)
        self._chains: dict[str, dict[str, Any]] = _load(folder / CHAINS)

    def digest(self, path: Path) -> str:
        """sha256 of the file, read only if it changed since it was read last.

        Raises:
            OSError: the file cannot be read.
            DataError: nor can it be fetched.
        """
        name, state = self._state(path)
        if (known := self._files.get(name)) and known[:-1] == state:
            return str(known[-1])
        self.need([path])
        digest = sha256_of(path)
        self._files[name] = [*state, digest]
        return digest

    def _state(self, path: Path) -> tuple[str, list[Any]]:
        if self._remote and (elsewhere := self._remote.state(path)):
            return self._remote.name(path), elsewhere
        status = path.stat()
        return str(path.absolute()), [status.st_size, status.st_mtime_ns, status.st_ctime_ns]

    def need(self, paths: Sequence[Path]) -> None:
        """Have files here before they are read.

        Raises:
            DataError: one cannot be fetched.
        """
        if self._remote:
            self._remote.need(paths)

    def digests(self, paths: Iterable[Path]) -> str:
        """One digest of the files' names and contents, in this order."""
        parts = [f"{path.parent.name}/{path.name} {self.digest(path)}" for path in paths]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def verify(self, log: Path, name: str) -> ChainSummary:
        """`verify_chain` of the log called ``name``, from where it was verified before if what lies before is
        as it was.

        Raises:
            Refused: as `verify_chain`.
            DataError: a file cannot be fetched.
        """
        files, known = batches(log), self._chains.get(name, {})
        after = None
        if known and known["files"] == self.digests(files[: known["batches"]]):
            after = ChainSummary(known["batches"], known["predictions"], known["head"])
        self.need([*files[after.batches if after else 0 :], *files[-1:]])
        found = verify_chain(log, after)
        self._chains[name] = asdict(found) | {"files": self.digests(files)}
        return found

    def record(self, session: str, key: str) -> SessionRecord | None:
        """The record of a session that was made from what ``key`` names; None where there is none."""
        return load_record(self._folder / f"{session}-{key}.npz")

    def keep(self, record: SessionRecord, key: str) -> None:
        """Keep a record and drop older ones of its session."""
        save_record(record, self._folder / f"{record.session}-{key}.npz")

    def save(self) -> None:
        """Write what was learned; a folder that may not be written is left as it is."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            for name, content in ((FILES, self._files), (CHAINS, self._chains)):
                beside = self._folder / f"{name}.new"
                beside.write_text(json.dumps(content) + "\n", encoding="utf-8")
                beside.replace(self._folder / name)
        except OSError:
            return


def sha256_of(path: Path) -> str:
    """The file's digest."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _load(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
