"""Objects in a folder and in S3, whole or not there."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import s3fs

from sekisho.errors import DataError, StoreError
from sekisho.objects import Objects


@pytest.fixture(params=["folder", "s3"])
def objects(request: pytest.FixtureRequest, tmp_path: Path) -> Objects:
    if request.param == "folder":
        return Objects(str(tmp_path / "store"))
    return Objects(request.getfixturevalue("s3"))


def test_what_was_put_is_read_listed_replaced_and_removed(objects: Objects) -> None:
    assert objects.names() == []
    assert objects.get("b") is None
    objects.put("b", b"1")
    objects.put("a", b"")
    objects.put("b", b"2")
    assert objects.names() == ["a", "b"]
    assert objects.get("b") == b"2"
    assert objects.get("a") == b""
    objects.remove("b")
    objects.remove("b")
    assert objects.names() == ["a"]


def test_another_machine_sees_what_was_put_since(s3: str) -> None:
    here, there = Objects(s3), Objects(s3)
    assert there.names() == []
    here.put("a", b"1")
    assert there.names() == ["a"]


def test_a_store_that_cannot_be_reached_is_named(s3: str) -> None:
    with pytest.raises(DataError, match=r"s3://absent/things/a: .*\n.*the role's rights"):
        Objects("s3://absent/things").put("a", b"1")


def test_an_object_that_does_not_fit_leaves_the_one_before(tmp_path: Path) -> None:
    objects = Objects(str(tmp_path))
    objects.put("a", b"before")
    program = f"from sekisho.objects import Objects; Objects({str(tmp_path)!r}).put('a', bytes(100_000))"

    def small_files_only() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))

    full = subprocess.run(
        [sys.executable, "-c", program], preexec_fn=small_files_only, capture_output=True, text=True
    )
    assert "StoreError" in full.stderr
    assert "free some space" in full.stderr
    assert objects.get("a") == b"before"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("address", ["", "/", "s3://", "s3:", "nothing://store", "gs://store"])
def test_an_address_of_no_store_is_refused_by_name(address: str) -> None:
    """Without one, a folder of it would lie at the root of the disk."""
    with pytest.raises(DataError, match=r"give a folder, or s3://bucket/prefix"):
        Objects.below(address, "blobs")


def test_a_store_that_is_a_file_is_not_said_to_be_full(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"file/a: .*\n.*check that it is a folder, and its permissions"):
        Objects(str(tmp_path / "file")).put("a", b"1")


def test_two_that_put_the_same_at_once_with_the_same_process_number_both_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pods that share a folder: in each, the command has the same number."""
    objects, content = Objects(str(tmp_path)), bytes(100_000)
    monkeypatch.setattr(os, "fsync", lambda file: None)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: objects.put("a", content), range(200)))
    assert objects.get("a") == content
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_store_that_does_not_answer_may_be_asked_again_and_one_that_refuses_may_not(
    s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A workflow tries again what ends with 75, and not what ends with 2."""
    with pytest.raises(DataError) as refused:
        Objects("s3://absent/things").put("a", b"1")
    assert refused.value.exit_code == 2
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    s3fs.S3FileSystem.clear_instance_cache()
    for ask in (Objects(s3).names, lambda: Objects(s3).get("a"), lambda: Objects(s3).put("a", b"1")):
        with pytest.raises(StoreError) as silent:
            ask()
        assert silent.value.exit_code == 75
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "nonsense")
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(DataError, match="Invalid endpoint: nonsense") as misread:
        Objects(s3).names()
    assert misread.value.exit_code == 2
