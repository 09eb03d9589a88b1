"""The manifest: every file of a release by path, size and sha256, in RFC 8785 canonical JSON.

The sha256 of ``manifest.json`` is the release's identity and the subject of every signature.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path
from typing import Annotated, Any, Self

import rfc8785
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from sekisho.errors import CannotCheck, Refused
from sekisho.params import MODEL

MANIFEST = "manifest.json"
CONTENT = "content"
BUNDLES = "bundles"
ORIGIN = "origin"  # of a rollback: the manifest and bundles of the release whose content it returns to
# content.dvc and .gitignore let git and DVC carry the folder; nothing that is verified depends on them
ENTRIES = {
    MANIFEST: False,
    CONTENT: True,
    BUNDLES: True,
    ORIGIN: True,
    "content.dvc": False,
    ".gitignore": False,
}
MAX_MANIFEST = 1 << 20  # bytes

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Commit = Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")]
ModelName = Annotated[str, Field(pattern=f"^{MODEL}$")]
Seq = Annotated[int, Field(ge=1, le=10**9)]


class Strict(BaseModel):
    """No key but those named, no value turned into another type, nothing changed afterwards."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class FileEntry(Strict):
    """One file of the content."""

    path: str  # below content/, POSIX
    size: Annotated[int, Field(ge=0)]  # bytes
    sha256: Sha256


class CreatedFrom(Strict):
    """What the release was exported at."""

    commit: Commit
    tree: Commit  # git's tree of that commit: what the reviewer must have seen
    dvc_lock_sha256: Sha256  # of the dvc.lock committed there


class Rollback(Strict):
    """Set when this release returns to the content of an older one."""

    seq: Seq
    manifest_digest: Sha256
    reason: Annotated[str, Field(min_length=1, max_length=500)]


class Manifest(Strict):
    """A release: its place among its model's, what it was exported at, and every file of its content."""

    version: Annotated[int, Field(ge=1, le=1)]  # strict, unlike Literal[1], which takes true for it
    model: ModelName
    seq: Seq
    previous: Sha256 | None  # manifest digest of seq - 1's release; null for the first
    created_from: CreatedFrom
    rollback: Rollback | None
    files: Annotated[list[FileEntry], Field(min_length=1)]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        paths = [entry.path for entry in self.files]
        if paths != sorted(set(paths)):
            raise ValueError("files must be sorted by path, each path once")
        if len({path.casefold() for path in paths}) != len(paths):
            raise ValueError("two paths differ only in case")
        if (self.seq == 1) != (self.previous is None):
            raise ValueError("previous is null exactly for seq 1")
        if self.rollback and self.rollback.seq >= self.seq:
            raise ValueError("a rollback returns to an older seq")
        return self

    @property
    def content_sha256(self) -> str:
        """What the content is called: sha256 of its list of files, whichever release holds it."""
        return hashlib.sha256(canonical([entry.model_dump() for entry in self.files])).hexdigest()

    def sha256(self, path: str) -> str:
        """Digest of one content file.

        Raises:
            Refused: rule ``missing-file``; the manifest does not list it.
        """
        for entry in self.files:
            if entry.path == path:
                return entry.sha256
        raise Refused(
            "missing-file",
            expected=f"content/{path}",
            found="no such file",
            remedy="export the release again",
        )


def canonical(value: Any) -> bytes:
    """RFC 8785 canonical JSON."""
    return rfc8785.dumps(value)


def parse_canonical(raw: bytes, name: str) -> Any:
    """Parse JSON that must be RFC 8785 canonical, so that one meaning has one spelling.

    Raises:
        Refused: rules ``duplicate-key``, ``canonical-json``.
    """

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            keys = [key for key, _ in pairs]
            twice = sorted({key for key in keys if keys.count(key) > 1})
            raise Refused(
                "duplicate-key",
                expected=f"each key once in {name}",
                found=f"{', '.join(twice)} twice",
                remedy="restore the file from git; parsers disagree on duplicate keys",
            )
        return found

    try:
        value = json.loads(raw.decode("utf-8"), object_pairs_hook=once)
        spelled = canonical(value)
    except (ValueError, RecursionError) as error:
        raise Refused(
            "canonical-json",
            expected=f"canonical JSON in {name}",
            found=str(error),
            remedy="restore the file from git",
        ) from error
    if spelled != raw:
        raise Refused(
            "canonical-json",
            expected=f"RFC 8785 canonical JSON in {name}",
            found="another spelling of it",
            remedy="restore the file from git; do not edit or reformat it",
        )
    return value


def check_path(path: str) -> str:
    """Refuse a path that is not plainly below the folder it is listed for.

    Raises:
        Refused: rule ``path-escape``.
    """
    parts = path.split("/")
    plain = all(part not in ("", ".", "..") and len(part) <= 255 for part in parts)
    if not plain or any(ord(char) < 32 or char in '\\:"*<>|?\x7f' for char in path) or not path.isascii():
        raise Refused(
            "path-escape",
            expected="a plain relative path below the release",
            found=repr(path),
            remedy="do not deploy this release; find out who wrote its manifest",
        )
    return path


def walk(folder: Path) -> Iterator[str]:
    """Relative paths of all files below ``folder``; anything but plain files in non-empty folders is refused.

    Raises:
        Refused: rules ``symlink``, ``special-file``, ``empty-folder``.
        CannotCheck: the folder cannot be read.
    """

    def visit(below: Path, prefix: str) -> Iterator[str]:
        try:
            entries = sorted(os.scandir(below), key=lambda entry: entry.name)
        except OSError as error:
            raise CannotCheck(
                f"{below}: {error.strerror}", remedy="run `dvc pull`, then check again"
            ) from error
        if not entries:
            raise _refuse_file("empty-folder", "no empty folder", below)
        for entry in entries:
            path = prefix + entry.name
            if entry.is_symlink():
                raise _refuse_file("symlink", "plain files only", Path(entry.path))
            if entry.is_dir(follow_symlinks=False):
                yield from visit(Path(entry.path), path + "/")
            elif entry.is_file(follow_symlinks=False):
                yield path
            else:
                raise _refuse_file("special-file", "plain files only", Path(entry.path))

    return visit(folder, "")


def _refuse_file(rule: str, expected: str, path: Path) -> Refused:
    return Refused(
        rule, expected=expected, found=str(path), remedy="restore the folder with `git` and `dvc checkout`"
    )


def open_plain(path: Path) -> BufferedReader:
    """Open a plain file without following a link or waiting for a pipe.

    Raises:
        Refused: rules ``symlink``, ``special-file``.
        FileNotFoundError: no such file.
        CannotCheck: it cannot be read.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        raise
    except OSError as error:
        if path.is_symlink():
            raise _refuse_file("symlink", "plain files only", path) from error
        raise CannotCheck(f"{path}: {error.strerror}", remedy="restore the file, then check again") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise _refuse_file("special-file", "plain files only", path)
    return os.fdopen(descriptor, "rb")


def hash_file(path: Path) -> tuple[int, str]:
    """Size in bytes and sha256 of a plain file, read without following a link.

    Raises:
        Refused: rules ``symlink``, ``special-file``.
        CannotCheck: it cannot be read.
    """
    try:
        with open_plain(path) as file:
            digest = hashlib.file_digest(file, "sha256")
            return file.tell(), digest.hexdigest()
    except FileNotFoundError as error:
        raise CannotCheck(f"{path}: {error.strerror}", remedy="restore the file, then check again") from error


def read_content(manifest: Manifest, content: Path, path: str) -> bytes:
    """One content file, its digest checked on the very bytes that are returned.

    Raises:
        Refused: rules ``missing-file``, ``symlink``, ``special-file``, ``file-digest``.
        CannotCheck: it cannot be read.
    """
    expected = manifest.sha256(path)
    try:
        with open_plain(content / check_path(path)) as file:
            raw = file.read()
    except OSError as error:
        raise CannotCheck(f"{content / path}: {error.strerror}", remedy="load the release again") from error
    if (found := hashlib.sha256(raw).hexdigest()) != expected:
        raise _wrong("file-digest", content / path, f"sha256 {expected}", found)
    return raw


def list_files(content: Path) -> list[FileEntry]:
    """Every file below ``content``, sorted by path, with its size and sha256."""
    entries = []
    for path in sorted(walk(content)):
        size, digest = hash_file(content / check_path(path))
        entries.append(FileEntry(path=path, size=size, sha256=digest))
    return entries


def parse_manifest(raw: bytes, name: str = MANIFEST) -> tuple[Manifest, str]:
    """The manifest and its digest (sha256 hex of the bytes).

    Raises:
        Refused: rules ``duplicate-key``, ``canonical-json``, ``manifest-schema``, ``path-escape``.
    """
    if len(raw) > MAX_MANIFEST:
        raise Refused(
            "manifest-schema",
            expected=f"{name} of at most {MAX_MANIFEST} bytes",
            found="more",
            remedy="restore it from git",
        )
    value = parse_canonical(raw, name)
    try:
        manifest = Manifest.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        raise Refused(
            "manifest-schema",
            expected=f"{name} of version 1",
            found=f"{'.'.join(map(str, first['loc'])) or 'the whole'}: {first['msg']}",
            remedy="restore it from git",
        ) from error
    for entry in manifest.files:
        check_path(entry.path)
    return manifest, hashlib.sha256(raw).hexdigest()


def read_manifest(release: Path) -> tuple[Manifest, str]:
    """Read ``manifest.json`` of a release folder; also refuses anything beside the known entries.

    Raises:
        Refused: as :func:`parse_manifest`, and ``symlink``, ``extra-file``.
        CannotCheck: no such release.
    """
    path = release / MANIFEST
    if release.is_symlink() or path.is_symlink():
        raise _refuse_file("symlink", "plain files only", release if release.is_symlink() else path)
    try:
        with open_plain(path) as file:
            raw = file.read(MAX_MANIFEST + 1)
        entries = list(os.scandir(release))
    except OSError as error:
        raise CannotCheck(
            f"{path}: {error.strerror}", remedy="name a folder like releases/policy/1"
        ) from error
    for entry in entries:
        if entry.is_symlink():
            raise _refuse_file("symlink", "plain files only", Path(entry.path))
        if ENTRIES.get(entry.name) is not entry.is_dir():
            raise _refuse_file("extra-file", f"only {', '.join(ENTRIES)} in a release", Path(entry.path))
    return parse_manifest(raw, str(path))


def check_place(releases: Path, release: Path, manifest: Manifest) -> None:
    """Refuse a release in any folder but its own, ``<releases>/<model>/<seq>``.

    Raises:
        Refused: rule ``release-folder``.
    """
    own = (releases / manifest.model / str(manifest.seq)).resolve()
    if release.resolve() != own:
        raise Refused(
            "release-folder",
            expected=f"{manifest.model}/{manifest.seq} in {own}",
            found=str(release),
            remedy="restore the folder from git; releases are neither copied nor renamed",
        )


def check_files(manifest: Manifest, content: Path) -> None:
    """Compare the content with the manifest: nothing extra, missing, renamed or changed.

    Raises:
        Refused: rules ``symlink``, ``special-file``, ``empty-folder``, ``extra-file``, ``missing-file``,
            ``file-size``, ``file-digest``; each names the path.
        CannotCheck: the content is not there at all.
    """
    if content.is_symlink():
        raise _refuse_file("symlink", "plain files only", content)
    if not content.is_dir():
        raise CannotCheck(f"{content}: not there", remedy="run `dvc pull` for the release, then check again")
    listed = {entry.path: entry for entry in manifest.files}
    present = set(walk(content))
    for path in sorted(present - listed.keys()):
        raise _refuse_file("extra-file", "only files that the manifest lists", content / path)
    for path in sorted(listed.keys() - present):
        raise _refuse_file("missing-file", "every file that the manifest lists", content / path)
    for path, entry in listed.items():
        if (found := (content / path).lstat().st_size) != entry.size:
            raise _wrong("file-size", content / path, f"{entry.size} bytes", f"{found} bytes")
    for path, entry in listed.items():
        size, digest = hash_file(content / path)
        if (size, digest) != (entry.size, entry.sha256):
            raise _wrong("file-digest", content / path, f"sha256 {entry.sha256}", digest)


def _wrong(rule: str, path: Path, expected: str, found: str) -> Refused:
    return Refused(
        rule, expected=f"{path} of {expected}", found=found, remedy="restore it with `dvc checkout`"
    )
