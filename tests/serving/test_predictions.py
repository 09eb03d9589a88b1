"""The prediction log: complete, in order, evident when touched, and never in the way of an answer."""

from __future__ import annotations

import datetime as dt
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sekisho.errors import CannotCheck, Refused
from sekisho.serving.core import Decision
from sekisho.serving.guard import Reason
from sekisho.serving.predictions import (
    CHAIN,
    HEAD,
    PREVIOUS,
    SCHEMA,
    Entry,
    PredictionLog,
    input_digest,
    read_predictions,
    verify_chain,
)

MONDAY = dt.date(2025, 6, 2)


def entry(lab: ModuleType, number: int, rows: int = 1, session: dt.date = MONDAY) -> Entry:
    observation = lab.observations(rows, seed=number)
    moment = dt.datetime.combine(session, dt.time(1, 5), dt.UTC)
    decision = Decision(lab.expected(observation), (Reason.OK,) * rows)
    return Entry(f"r{number}", moment, session, moment, "policy", 7, "d" * 64, observation, decision, number)


def open_log(folder: Path, **changes: object) -> PredictionLog:
    return PredictionLog(folder, **{"capacity": 10_000, "batch": 100, "interval": 0.02, **changes})


def fill(lab: ModuleType, folder: Path, batches: int) -> list[Path]:
    """A closed log of so many batches over two sessions; its files in order."""
    log = open_log(folder, batch=3)
    for number in range(3 * batches):
        log.append(entry(lab, number, session=MONDAY + dt.timedelta(days=number >= 3 * (batches // 2))))
        if number % 3 == 2:
            assert log.flush(10)
    log.close()
    return sorted(folder.glob("*/*.parquet"), key=lambda path: path.name)


def test_what_goes_in_comes_out_in_order_with_the_contracts_columns(lab: ModuleType, tmp_path: Path) -> None:
    log = open_log(tmp_path)
    sent = [entry(lab, number, rows=1 + number % 3) for number in range(50)]
    for one in sent:
        log.append(one)
    log.close()
    table = read_predictions(tmp_path, [MONDAY])
    assert table.schema == SCHEMA
    observations = np.concatenate([one.observation.reshape(len(one.observation), -1) for one in sent])
    np.testing.assert_array_equal(np.array(table["observation"].to_list(), dtype=np.float32), observations)
    weights = np.concatenate([one.decision.target_weights for one in sent])
    np.testing.assert_array_equal(np.array(table["target_weights"].to_list(), dtype=np.float32), weights)
    ids = [i for one in sent for i in ([one.request_id] if len(one.observation) == 1 else
           [f"{one.request_id}/{row}" for row in range(len(one.observation))])]  # fmt: skip
    assert table["prediction_id"].to_list() == ids
    assert table["input_digest"].to_list() == [input_digest(row) for row in observations]
    assert (log.lost, log.queued, log.written) == (0, 0, len(observations))
    assert verify_chain(tmp_path).predictions == len(observations)


def test_sessions_lie_apart_and_are_read_apart(lab: ModuleType, tmp_path: Path) -> None:
    fill(lab, tmp_path, 4)
    tuesday = MONDAY + dt.timedelta(days=1)
    assert set(read_predictions(tmp_path, [tuesday])["session"]) == {tuesday}
    assert len(read_predictions(tmp_path)) == 12
    assert read_predictions(tmp_path, [dt.date(2020, 1, 6)]).is_empty()


def test_a_request_larger_than_a_batch_is_one_file(lab: ModuleType, tmp_path: Path) -> None:
    log = open_log(tmp_path, batch=10)
    log.append(entry(lab, 1, rows=25))
    log.close()
    assert verify_chain(tmp_path).batches == 1
    assert len(read_predictions(tmp_path)) == 25


def edit_a_weight(files: list[Path]) -> Path:
    path, links = files[1], pl.read_parquet_metadata(files[1])
    table = pl.read_parquet(path).with_columns(pl.lit(3, pl.Int64).alias("latency_us"))
    table.write_parquet(
        path, metadata={key: value for key, value in links.items() if key.startswith("sekisho")}
    )
    return path


def edit_the_chain_too(files: list[Path]) -> Path:
    path, links = files[1], pl.read_parquet_metadata(files[1])
    pl.read_parquet(path).head(2).write_parquet(
        path, metadata={CHAIN: "a" * 64, PREVIOUS: links[PREVIOUS], "sekisho.batch": "2"}
    )
    return path


def cut_the_file(files: list[Path]) -> Path:
    files[1].write_bytes(files[1].read_bytes()[:-100])
    return files[1]


def remove_one(files: list[Path]) -> Path:
    files[1].unlink()
    return files[1]


def remove_the_last(files: list[Path]) -> Path:
    files[-1].unlink()
    return files[-1]


def remove_the_first(files: list[Path]) -> Path:
    files[0].unlink()
    return files[0]


def swap_two(files: list[Path]) -> Path:
    first, second = files[0].read_bytes(), files[1].read_bytes()
    files[0].write_bytes(second)
    files[1].write_bytes(first)
    return files[0]


def move_to_another_session(files: list[Path]) -> Path:
    files[1].rename(files[-1].parent / files[1].name)
    return files[1]


def add_one(files: list[Path]) -> Path:
    path = files[-1].parent / f"{len(files) + 1:012d}.parquet"
    path.write_bytes(files[-1].read_bytes())
    return path


@pytest.mark.parametrize(
    "touch",
    [
        edit_a_weight,
        edit_the_chain_too,
        cut_the_file,
        remove_one,
        remove_the_first,
        remove_the_last,
        swap_two,
        move_to_another_session,
        add_one,
    ],
)
def test_a_touched_log_is_refused_and_the_file_is_named(
    lab: ModuleType, tmp_path: Path, touch: Callable[[list[Path]], Path]
) -> None:
    files = fill(lab, tmp_path, 4)
    assert verify_chain(tmp_path).batches == 4
    path = touch(files)
    with pytest.raises(Refused, match=path.stem):
        verify_chain(tmp_path)


@pytest.mark.parametrize("left", [3, 1])
def test_a_removed_head_is_noticed_and_with_it_a_removed_end(
    lab: ModuleType, tmp_path: Path, left: int
) -> None:
    for path in fill(lab, tmp_path, 3)[left:]:
        path.unlink()
    (tmp_path / HEAD).unlink()
    with pytest.raises(Refused, match=HEAD):
        verify_chain(tmp_path)


def test_no_writer_goes_on_over_a_removed_end(lab: ModuleType, tmp_path: Path) -> None:
    for path in fill(lab, tmp_path, 3)[1:]:
        path.unlink()
    with pytest.raises(CannotCheck, match="names batch 3, the newest is 1"):
        open_log(tmp_path)


def test_a_crash_between_batch_and_head_is_no_tampering(lab: ModuleType, tmp_path: Path) -> None:
    files = fill(lab, tmp_path, 2)
    links = pl.read_parquet_metadata(files[-1])
    (tmp_path / HEAD).write_text(json.dumps({"batch": 1, "chain": links[PREVIOUS]}))
    assert verify_chain(tmp_path).batches == 2


def test_a_new_writer_goes_on_where_the_last_one_stopped(lab: ModuleType, tmp_path: Path) -> None:
    fill(lab, tmp_path, 2)
    (tmp_path / str(MONDAY) / ".000000000003.tmp").write_bytes(b"half a file")
    log = open_log(tmp_path)
    log.append(entry(lab, 99))
    log.close()
    assert verify_chain(tmp_path).batches == 3
    assert not list(tmp_path.glob("*/.*.tmp"))


def test_two_writers_cannot_share_a_folder(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    try:
        with pytest.raises(CannotCheck, match="another server"):
            open_log(tmp_path)
    finally:
        log.close()


def test_a_damaged_last_batch_stops_the_start(lab: ModuleType, tmp_path: Path) -> None:
    files = fill(lab, tmp_path, 2)
    files[-1].write_bytes(b"PAR1")
    with pytest.raises(CannotCheck, match=files[-1].stem):
        open_log(tmp_path)


def test_a_disk_that_refuses_costs_no_answer_and_loses_nothing_within_capacity(
    lab: ModuleType, tmp_path: Path
) -> None:
    log = open_log(tmp_path, capacity=300)
    block = tmp_path / str(MONDAY)
    block.write_text("a file where the session's folder must be")
    slowest = 0.0
    for number in range(500):
        started = time.perf_counter()
        log.append(entry_cheap := entry(lab, 1)._replace(request_id=f"r{number}"))
        slowest = max(slowest, time.perf_counter() - started)
    assert entry_cheap.request_id == "r499"
    while not log.failed_writes:
        time.sleep(0.01)
    assert (log.lost, log.queued, log.written) == (200, 300, 0)
    assert slowest < 0.25
    block.unlink()
    assert log.flush(10)
    log.close()
    assert (log.lost, log.queued, log.written) == (200, 0, 300)
    assert read_predictions(tmp_path)["prediction_id"].to_list() == [f"r{n}" for n in range(300)]
    verify_chain(tmp_path)


def test_what_cannot_be_written_at_the_end_is_counted(lab: ModuleType, tmp_path: Path) -> None:
    log = open_log(tmp_path, interval=60.0)
    (tmp_path / str(MONDAY)).write_text("in the way")
    log.append(entry(lab, 1, rows=7))
    log.close()
    assert (log.lost, log.written, log.queued) == (7, 0, 0)


@settings(max_examples=25, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 40), max_size=60), capacity=st.integers(1, 200), batch=st.integers(1, 50)
)
def test_every_prediction_is_written_or_counted(
    lab: ModuleType, tmp_path_factory: pytest.TempPathFactory, sizes: list[int], capacity: int, batch: int
) -> None:
    folder = tmp_path_factory.mktemp("any")
    log = open_log(folder, capacity=capacity, batch=batch, interval=0.001)
    for number, rows in enumerate(sizes):
        log.append(entry(lab, number, rows))
    log.close()
    assert log.written + log.lost == sum(sizes)
    assert len(read_predictions(folder)) == log.written
    assert verify_chain(folder).predictions == log.written


WRITER = """
import datetime as dt, sys, numpy as np
from pathlib import Path
from sekisho.serving.core import Decision
from sekisho.serving.guard import Reason
from sekisho.serving.predictions import Entry, PredictionLog
log = PredictionLog(Path(sys.argv[1]), capacity=100_000, batch=20, interval=0.001)
moment = dt.datetime(2025, 6, 2, 1, 5, tzinfo=dt.UTC)
x = np.zeros((1, 3, 3), dtype=np.float32)
n = 0
while True:
    for _ in range(20):
        log.append(Entry(f"r{n}", moment, moment.date(), moment, "policy", 7, "d" * 64, x,
                         Decision(x[:, :, 0], (Reason.OK,)), 1))
        n += 1
    log.flush(10)
    print(log.written, flush=True)
"""


def test_after_a_kill_everything_flushed_is_readable_and_the_chain_goes_on(
    lab: ModuleType, tmp_path: Path
) -> None:
    flushed = 0
    for _ in range(2):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout
        for _ in range(5):
            line = process.stdout.readline()
        process.send_signal(signal.SIGKILL)
        process.wait()
        rest = process.stdout.read().split("\n")
        flushed += max(int(text) for text in [line, *rest[:-1]])
        assert len(read_predictions(tmp_path)) >= flushed
        flushed = verify_chain(tmp_path).predictions
    log = open_log(tmp_path)
    log.append(entry(lab, 1))
    log.close()
    assert verify_chain(tmp_path).predictions == flushed + 1
