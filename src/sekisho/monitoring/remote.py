"""A prediction log and the memory of its checks in S3: what a check reads there grows with new sessions only.

The log is listed whole, file by file with its ETag; a file comes when it is read for the first time, or when
its ETag is no longer that of which the memory holds the digest. Until then an empty file stands in its place,
which nothing can take for predictions. So the chain is recomputed over what is new, from the head that was
kept, and must end where ``head.json``, which is always fetched, says.

The memory is one object beside the verdicts. It is believed: a forged one could hold records of sessions that
were not so, and hide an alarm or raise one. Therefore it lies where the check's role alone may write
(terraform/roles.yaml: ``drift``). Who can forge it can publish a forged verdict as well: it opens no way that
is not there without it. Who may write the log only, its pods and what copies it, cannot reach it: a file that
was changed has another ETag and is read again, one that is missing breaks the chain. A check with another
release, or without ``--kept``, reads the log whole; so does `sekisho audit trace`.
"""

from __future__ import annotations

import io
import shutil
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from sekisho.errors import DataError
from sekisho.monitoring.kept import FOLDER, Kept
from sekisho.objects import Objects
from sekisho.serving.predictions import HEAD

MEMORY = ".kept.tar"  # of an address; hidden, so that it passes for no verdict
COPY = Path("build/predictions-copy")
SCHEME = "://"  # in an address, and in no folder's path


class RemoteLog:
    """The log under an S3 address as the folder ``COPY``, which is replaced; one server's or several's."""

    def __init__(self, address: str, folder: Path = COPY) -> None:
        """
        Raises:
            DataError: no such address, or it cannot be listed or read.
        """
        self.folder, self._objects = folder, Objects(address)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        listed = {
            name: state
            for name, state in self._objects.tree().items()
            if not any(part.startswith(".") for part in name.split("/"))  # a writer's lock, and the like
        }
        self._states = {(folder / name).absolute(): (name, state) for name, state in listed.items()}
        for path in self._states:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        self._here: set[Path] = set()
        self.need([path for path in self._states if path.name == HEAD])

    def state(self, path: Path) -> list[str] | None:
        """What changes with the file's content; None where it is not one of the log."""
        known = self._states.get(path.absolute())
        return [known[1]] if known else None

    def name(self, path: Path) -> str:
        """The file's place in the log, the same on every machine."""
        return self._states[path.absolute()][0]

    def need(self, paths: Sequence[Path]) -> None:
        """Fetch those of the files that are not here yet.

        Raises:
            DataError: the store cannot be read.
        """
        wanted = map(Path.absolute, paths)
        lacking = [path for path in wanted if path in self._states and path not in self._here]
        if lacking:
            self._objects.fetch([self._states[path][0] for path in lacking], self.folder.absolute())
            self._here.update(lacking)


@contextmanager
def open_log(predictions: str, kept: str | None) -> Iterator[tuple[Path, Kept]]:
    """The log as a folder, and the memory of its checks: each of them a folder, or an address in S3. Without
    ``kept`` the memory is one beside the sessions, which a log in S3 does not keep.

    Raises:
        DataError: no such address, or the log cannot be listed or read.
    """
    with ExitStack() as ending:
        remote = RemoteLog(predictions) if SCHEME in predictions else None
        folder = remote.folder if remote else Path(predictions)
        if kept and SCHEME in kept:
            yield folder, Kept(ending.enter_context(_unpacked(kept)), remote)
        else:
            yield folder, Kept(Path(kept) if kept else folder / FOLDER, remote)


@contextmanager
def _unpacked(address: str) -> Iterator[Path]:
    """The memory under an address as a folder, put back at the end. One that cannot be had or is not whole
    costs time, and one that cannot be put back will: neither is a reason not to judge.

    Raises:
        DataError: no such address.
    """
    store = Objects(address)
    with tempfile.TemporaryDirectory(prefix="sekisho-kept-") as place:
        folder = Path(place) / "kept"
        folder.mkdir()
        try:
            if content := store.get(MEMORY):
                with tarfile.open(fileobj=io.BytesIO(content)) as packed:
                    packed.extractall(folder, filter="data")
        except (DataError, tarfile.TarError, OSError, EOFError) as error:
            print(f"{address}/{MEMORY}: the log is read whole: {error}", file=sys.stderr)
            shutil.rmtree(folder)
            folder.mkdir()
        yield folder
        packing = io.BytesIO()
        with tarfile.open(fileobj=packing, mode="w") as packed:
            packed.add(folder, ".")
        try:
            store.put(MEMORY, packing.getvalue())
        except DataError as error:
            print(f"{address}/{MEMORY}: the next check reads the log whole: {error}", file=sys.stderr)
