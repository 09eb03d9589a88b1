"""A check of a log in S3: what it reads there, and that no memory makes it see less."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import s3fs

from sekisho.errors import DataError
from sekisho.monitoring.check import check_predictions
from sekisho.monitoring.remote import MEMORY, open_log
from sekisho.monitoring.verdict import Verdict
from sekisho.objects import Objects
from sekisho.serving.predictions import HEAD, PredictionLog

FIRST, ALL = 4, 5  # sessions that the log holds at the first check, and at the second


@pytest.fixture
def store(s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> s3fs.S3FileSystem:
    monkeypatch.chdir(tmp_path)
    return s3fs.S3FileSystem()


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of what was fetched, in the order of it."""
    names: list[str] = []
    fetch = Objects.fetch

    def noted(self: Objects, asked: list[str], folder: Path) -> None:
        names.extend(asked)
        fetch(self, asked, folder)

    monkeypatch.setattr(Objects, "fetch", noted)
    return names


@contextmanager
def writer(folder: Path) -> Iterator[PredictionLog]:
    log = PredictionLog(folder, capacity=10**6, batch=1024, interval=60.0)
    yield log
    log.close()


def judge(world, s3: str, kept: str | None = None) -> Verdict:  # type: ignore[no-untyped-def]
    with open_log(f"{s3}/log", kept or f"{s3}/verdicts") as (folder, memory):
        return check_predictions(folder, world.release, world.params.monitoring, kept=memory)


def upload(store: s3fs.S3FileSystem, folder: Path, s3: str) -> None:
    store.invalidate_cache()
    store.put(f"{folder}/", f"{s3}/log/", recursive=True)


@pytest.fixture
def checked(world, store, s3: str, tmp_path: Path) -> Path:  # type: ignore[no-untyped-def]
    """A log of one server that was checked once, and has grown by a session since."""
    log = tmp_path / "pods" / "pod-0"
    with writer(log) as writing:
        for session in world.calm.sessions[:FIRST]:
            world.add(writing, world.calm, session)
            writing.flush(60)
    upload(store, log.parent, s3)
    assert judge(world, s3).state == "ok"
    with writer(log) as writing:
        world.add(writing, world.calm, world.calm.sessions[FIRST])
    upload(store, log.parent, s3)
    return log


def files(log: Path) -> list[Path]:
    return sorted(log.glob("*/*.parquet"))


def test_a_check_fetches_what_is_new_and_says_what_one_of_the_whole_log_says(
    world, checked: Path, s3: str, fetched: list[str]
) -> None:
    new = {f"pod-0/{path.parent.name}/{path.name}" for path in files(checked)[FIRST:]}
    again = judge(world, s3)
    assert set(fetched) == {f"pod-0/{HEAD}", *new}
    assert len(fetched) == len(set(fetched))
    assert again == check_predictions(checked.parent, world.release, world.params.monitoring)
    assert (again.state, again.sessions) == ("ok", ALL)
    fetched.clear()
    assert judge(world, s3) == again
    assert fetched == [f"pod-0/{HEAD}", fetched[-1]]  # the head, and the batch that it names


def test_another_pod_is_read_from_its_first_batch(world, checked: Path, s3: str, store, fetched) -> None:
    other = checked.with_name("pod-1")
    with writer(other) as writing:
        world.add(writing, world.calm, world.calm.sessions[FIRST], rows=[0], name="other")
    upload(store, checked.parent, s3)
    verdict = judge(world, s3)
    assert verdict.rows == check_predictions(checked.parent, world.release, world.params.monitoring).rows
    assert {name for name in fetched if name.startswith("pod-1/")} == {
        f"pod-1/{HEAD}",
        *(f"pod-1/{path.parent.name}/{path.name}" for path in files(other)),
    }


def changed(store: s3fs.S3FileSystem, log: Path, s3: str) -> None:
    """One of the sessions that the memory covers, with another's rows."""
    store.put_file(str(files(log)[1]), f"{s3}/log/pod-0/{files(log)[0].parent.name}/{files(log)[0].name}")


def removed(store: s3fs.S3FileSystem, log: Path, s3: str) -> None:
    store.rm(f"{s3}/log/pod-0/{files(log)[1].parent.name}/{files(log)[1].name}")


def cut(store: s3fs.S3FileSystem, log: Path, s3: str) -> None:
    """The newest batch is gone; the head still names it."""
    store.rm(f"{s3}/log/pod-0/{files(log)[-1].parent.name}/{files(log)[-1].name}")


def beheaded(store: s3fs.S3FileSystem, log: Path, s3: str) -> None:
    store.rm(f"{s3}/log/pod-0/{HEAD}")


def another_head(store: s3fs.S3FileSystem, log: Path, s3: str) -> None:
    store.pipe_file(f"{s3}/log/pod-0/{HEAD}", json.dumps({"batch": 5, "chain": "0" * 64}).encode())


@pytest.mark.parametrize("spoil", [changed, removed, cut, beheaded, another_head])
def test_a_log_that_is_not_as_it_was_checked_is_not_judged(
    world, checked: Path, s3: str, store, spoil
) -> None:
    spoil(store, checked, s3)
    store.invalidate_cache()
    verdict = judge(world, s3)
    assert verdict.state == "cannot-judge"
    assert any("prediction-log-chain" in problem for problem in verdict.problems), verdict.problems


def repacked(content: bytes, change) -> bytes:
    """A memory with one file of it changed."""
    made = io.BytesIO()
    with tarfile.open(fileobj=io.BytesIO(content)) as before, tarfile.open(fileobj=made, mode="w") as after:
        for member in before:
            data = before.extractfile(member)
            held = change(member.name, data.read()) if data else b""
            member.size = len(held)
            after.addfile(member, io.BytesIO(held))
    return made.getvalue()


def test_a_memory_that_tells_of_another_chain_is_found_out(world, checked: Path, s3: str) -> None:
    """Its head is where recomputing begins: what is new must follow it, and end at the log's own head."""
    place = Objects(f"{s3}/verdicts")

    def forged(name: str, held: bytes) -> bytes:
        if not name.endswith("chains.json"):
            return held
        chains = json.loads(held)
        chains["pod-0"]["head"] = "1" * 64
        return json.dumps(chains).encode()

    place.put(MEMORY, repacked(place.get(MEMORY) or b"", forged))
    verdict = judge(world, s3)
    assert verdict.state == "cannot-judge"
    assert "prediction-log-chain" in verdict.problems[0]


@pytest.mark.parametrize("content", [b"", b"no archive", b"half"])
def test_a_memory_that_is_not_whole_costs_time_only(
    world, checked: Path, s3: str, fetched: list[str], content: bytes
) -> None:
    place = Objects(f"{s3}/verdicts")
    whole = place.get(MEMORY) or b""
    place.put(MEMORY, whole[: len(whole) // 2] if content == b"half" else content)
    assert judge(world, s3).sessions == ALL
    assert len([name for name in fetched if name.endswith(".parquet")]) >= 1
    fetched.clear()
    judge(world, s3)
    assert len(fetched) == 2


def test_a_memory_that_cannot_be_had_or_kept_is_no_reason_not_to_judge(
    world, checked: Path, s3: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert judge(world, s3, "s3://absent/verdicts").sessions == ALL
    assert "the next check reads the log whole" in capsys.readouterr().err


def test_a_log_that_cannot_be_had_is_said_to_be(world, s3: str, store) -> None:
    with pytest.raises(DataError, match="s3://absent"):
        judge(world, "s3://absent")
    shutil.rmtree("build", ignore_errors=True)
    store.pipe_file("store/things/log/../above.parquet", b"")
    with pytest.raises(DataError, match="not a name that a file may have"):
        judge(world, s3)
