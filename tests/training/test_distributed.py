"""Ranks share one run: what they learn, and what killing, stopping and failing stores leave of it."""

from __future__ import annotations

import copy
import hashlib
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import numpy as np
import onnx
import pytest
import s3fs
from moto.server import DomainDispatcherApplication, create_backend_app
from torch.distributed import TCPStore
from werkzeug.serving import make_server

from sekisho import launch
from sekisho.checkpoints import ATTEMPTS, Checkpoints
from sekisho.errors import Interrupted, ParamsError, StoreError, TrainingError
from sekisho.market.ranks import Ranks
from sekisho.train import Finished, Run, _Trainers, train_one
from sekisho.trainer import train_fold

from .conftest import World
from .test_apg import load

ROOT = Path(__file__).parents[2]
TOLERANCE = 1e-5  # of a weight: float32 sums in another order, through 32 updates
LOOP = {"evaluate_every": 8, "patience": 0, "checkpoint_every": 1, "device": "cpu"}
SMALL = {"samples": 8192, "environments": 32, "steps": 8, "hidden": 8, "minibatches": 3}  # 32 updates


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    world = World(tmp_path_factory.mktemp("distributed") / "world")
    world.with_params(ppo=SMALL, apg=SMALL, train=LOOP)
    return world


def alone(world: World, name: str, trainer: str = "ppo", **options: Any) -> Path:
    """Train in this process; the published folder."""
    out = world.folder / name
    places = {"checkpoints": str(world.folder / "checkpoints" / name)} | options
    learn = load(ROOT / f"training/{trainer}.py").learn
    train_fold(
        learn, world.params, fold=0, seed=1, out=out, bars=world.bars, features=world.features, **places
    )
    return out


def started(
    world: World, name: str, ranks: int, trainer: str = "ppo", restarts: int = 0, **torchrun: str
) -> Any:
    """The trainer's own command line with ``ranks`` under torchrun, which is told more by its variables."""
    command = [
        sys.executable, str(ROOT / f"training/{trainer}.py"), "--fold", "0", "--seed", "1",
        "--out", str(world.folder / name), "--bars", str(world.bars), "--features", str(world.features),
        "--params", str(world.params_file), "--checkpoints", str(world.folder / "checkpoints" / name),
        "--tensorboard", str(world.folder / "board"), "--ranks", str(ranks),
    ]  # fmt: skip
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PET_MAX_RESTARTS": str(restarts)} | torchrun
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def finished(world: World, name: str, ranks: int, trainer: str = "ppo") -> Path:
    child = started(world, name, ranks, trainer)
    said, _ = child.communicate()
    assert child.returncode == 0, said
    return world.folder / name


def wait_for(child: Any, update: int) -> None:
    for line in child.stdout:
        if line.startswith(f"update {update}/"):
            return
    raise AssertionError(f"it ended before update {update}")


def digest(folder: Path) -> str:
    return hashlib.sha256((folder / "model.onnx").read_bytes()).hexdigest()


def gap(one: Path, other: Path) -> float:
    """Largest difference of a weight."""
    graphs = [onnx.load(folder / "model.onnx").graph.initializer for folder in (one, other)]
    arrays = [{part.name: onnx.numpy_helper.to_array(part) for part in graph} for graph in graphs]
    return max(float(np.abs(arrays[0][name] - arrays[1][name]).max(initial=0.0)) for name in arrays[0])


@pytest.fixture(scope="module")
def whole(world: World) -> Path:
    return alone(world, "whole")


@pytest.fixture(scope="module")
def pair(world: World) -> Path:
    """The unbroken run of two ranks."""
    return finished(world, "pair", 2)


def test_two_ranks_learn_what_one_process_learns(whole: Path, pair: Path) -> None:
    assert gap(whole, pair) < TOLERANCE


def test_four_ranks_learn_what_one_process_learns(world: World, whole: Path) -> None:
    assert gap(whole, finished(world, "four", 4)) < TOLERANCE


def test_ranks_follow_the_derivative_of_one_process(world: World) -> None:
    assert gap(alone(world, "apg-1", "apg"), finished(world, "apg-2", 2, "apg")) < TOLERANCE


def test_another_seed_is_farther_than_the_tolerance(world: World, whole: Path) -> None:
    learn, out = load(ROOT / "training/ppo.py").learn, world.folder / "other"
    train_fold(
        learn, world.params, fold=0, seed=2, out=out, bars=world.bars, features=world.features,
        checkpoints=str(world.folder / "checkpoints/other"),
    )  # fmt: skip
    assert gap(whole, out) > 1000 * TOLERANCE


def test_three_kills_of_a_worker_change_no_byte(world: World, pair: Path) -> None:
    """torchrun starts the ranks anew, which go on from the newest checkpoint: one update is lost at most."""
    draw = random.Random("kills")
    child = started(world, "killed", 2, restarts=3)
    for update in sorted(draw.sample(range(2, 30), 3)):
        wait_for(child, update)
        workers = Path(f"/proc/{child.pid}/task/{child.pid}/children").read_text().split()
        os.kill(int(draw.choice(workers)), signal.SIGKILL)
    said, _ = child.communicate()
    assert child.returncode == 0, said
    assert digest(world.folder / "killed") == digest(pair)


def test_ranks_whose_input_is_bad_are_not_started_anew(world: World) -> None:
    bad = copy.copy(world)
    bad.features = world.folder / "none"
    said, _ = (child := started(bad, "bad", 2, restarts=3)).communicate()
    assert child.returncode == 2, said
    assert said.count("ppo: ") == 2, said  # each rank once


def test_what_the_first_rank_alone_cannot_do_is_not_tried_again(world: World) -> None:
    (world.folder / "file").touch()
    said, _ = (child := started(world, "file/run", 2, restarts=3)).communicate()
    assert child.returncode == 2, said
    assert said.count("update 32/32") == 1
    assert "file/run: File exists" in said


@pytest.fixture
def nodes() -> Iterator[Callable[..., list[Any]]]:
    """Start a run of two ranks on two nodes, which meet at a store that outlives them."""
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    meeting = {
        "PET_NNODES": "2", "PET_RDZV_BACKEND": "c10d", "PET_RDZV_ENDPOINT": f"127.0.0.1:{store.port}",
        "PET_RDZV_ID": "a-run", "PET_RDZV_CONF": "is_host=false", "PET_LOCAL_ADDR": "127.0.0.1",
    }  # fmt: skip
    yield lambda name, *worlds, restarts: [
        started(world, name, 2, restarts=restarts, **meeting) for world in worlds
    ]
    del store


def test_a_run_whose_tries_are_used_up_is_gone_on_with_by_the_next_pods(
    world: World, pair: Path, nodes: Callable[..., list[Any]]
) -> None:
    """torchrun would close the rendezvous for ever."""
    lost = nodes("nodes", world, world, restarts=0)
    until = time.monotonic() + 60
    while not list((world.folder / "checkpoints/nodes").glob("*.json")) and time.monotonic() < until:
        time.sleep(0.02)
    (worker,) = Path(f"/proc/{lost[0].pid}/task/{lost[0].pid}/children").read_text().split()
    os.kill(int(worker), signal.SIGKILL)
    ends = [(node.communicate()[0], node.returncode) for node in lost]
    assert [code for _, code in ends] == [75, 75], ends
    again = nodes("nodes", world, world, restarts=0)
    ends = [(node.communicate()[0], node.returncode) for node in again]
    assert [code for _, code in ends] == [0, 0], ends
    assert digest(world.folder / "nodes") == digest(pair)


def test_a_fault_of_one_node_ends_the_others(world: World, nodes: Callable[..., list[Any]]) -> None:
    bad = copy.copy(world)
    bad.features = world.folder / "none"
    began = time.monotonic()
    ends = [(node.communicate()[0], node.returncode) for node in nodes("one-bad", bad, world, restarts=3)]
    assert [code for _, code in ends] == [2, 2], ends
    assert "another node has ended this run" in ends[1][0]
    assert time.monotonic() - began < 300  # torchrun waits ten minutes for a node that is gone


def test_nodes_that_do_not_meet_may_meet_later(world: World) -> None:
    nowhere = {"PET_NNODES": "2", "PET_RDZV_BACKEND": "c10d", "PET_RDZV_ENDPOINT": "127.0.0.1:9"}
    nowhere |= {"PET_RDZV_ID": "a-run", "PET_RDZV_CONF": "is_host=false,read_timeout=1"}
    said, _ = (child := started(world, "nowhere", 2, **nowhere)).communicate()
    assert child.returncode == 75, said
    assert "the 2 nodes did not meet at 127.0.0.1:9" in said


def test_sigterm_saves_in_seconds_and_any_number_of_ranks_goes_on(
    world: World, pair: Path, whole: Path
) -> None:
    child = started(world, "told", 2)
    wait_for(child, 7)
    began = time.monotonic()
    child.send_signal(signal.SIGTERM)
    said, _ = child.communicate()
    assert time.monotonic() - began < 20  # of the 120 s that a spot instance is given; 1 s when idle
    assert child.returncode == Interrupted.exit_code == 75
    assert "told to end: update" in said
    assert not (world.folder / "told").exists()
    shutil.copytree(world.folder / "checkpoints/told", world.folder / "checkpoints/by-one")
    assert digest(finished(world, "told", 2)) == digest(pair)
    assert gap(alone(world, "by-one"), whole) < TOLERANCE


def test_two_ranks_go_on_where_one_stopped(world: World, whole: Path) -> None:
    looks = iter([False] * 9 + [True])
    with pytest.raises(Interrupted, match="update 10 of 32 is saved"):
        alone(world, "by-two", told_to_end=lambda: next(looks))
    newest = sorted((world.folder / "checkpoints/by-two").glob("0000010-*-shared.pt"))
    newest[0].write_bytes(b"damaged")  # so that the ninth must be found, by both
    child = started(world, "by-two", 2)
    said, _ = child.communicate()
    assert child.returncode == 0, said
    assert said.count("is damaged, going back to the one before") == 1
    assert said.index("is damaged") < said.index("update 10/32")
    assert gap(world.folder / "by-two", whole) < TOLERANCE


def test_sekisho_train_passes_sigterm_on_and_goes_on_to_the_same_bytes(world: World, tmp_path: Path) -> None:
    shutil.copy(world.params_file, tmp_path / "params.yaml")
    (tmp_path / "training").symlink_to(ROOT / "training")
    command = [
        sys.executable, "-c", "from sekisho.cli import run; run()", "train", "--run", "fold-0/seed-1",
        "--bars", str(world.bars), "--features", str(world.features), "--store", str(tmp_path / "store"),
    ]  # fmt: skip
    child = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + 60
    while not list(tmp_path.glob("store/checkpoints/*/*.json")) and time.monotonic() < until:
        time.sleep(0.02)
    child.terminate()
    _, said = child.communicate()
    assert child.returncode == 75, said
    assert "told to end" in said
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    (archive,) = tmp_path.glob("store/runs/*/fold-0.seed-1-*.tar")
    shutil.unpack_archive(archive, tmp_path / "unpacked")
    assert digest(tmp_path / "unpacked") == digest(alone(world, "by-hand"))


def failing_between(first: int, last: int, fail: Callable[[bool], None]) -> Callable[[], bool]:
    """Looked at after each update, before it is saved: ``fail`` from ``first`` to ``last``; never ends."""
    updates = iter(range(1, 10**6))

    def look() -> bool:
        fail(first <= next(updates) <= last)
        return False

    return look


def full_disk(full: bool) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000 if full else hard, hard))


def test_a_disk_that_is_full_for_a_while_loses_nothing(
    world: World, whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    full = alone(world, "full", told_to_end=failing_between(4, 4 + ATTEMPTS - 2, full_disk))
    said = capsys.readouterr().err
    assert said.count("was not saved, that of update 3 is kept") == ATTEMPTS - 1
    assert "File too large" in said
    assert digest(full) == digest(whole)


@pytest.mark.usefixtures("capsys")  # what is said would go to a file otherwise, which is full as well
def test_a_disk_that_stays_full_ends_the_run_and_keeps_the_newest_checkpoint(
    world: World, whole: Path
) -> None:
    try:
        with pytest.raises(StoreError, match=rf"the last {ATTEMPTS} checkpoints(?s:.*)of update 3"):
            alone(world, "ended", told_to_end=failing_between(4, 99, full_disk))
    finally:
        full_disk(False)
    assert digest(alone(world, "ended")) == digest(whole)


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[bool], None]]:
    """A bucket ``store`` whose server answers 503 while told to."""
    moto, down = DomainDispatcherApplication(create_backend_app), threading.Event()

    def answer(environ: Any, start_response: Any) -> Any:
        if down.is_set():
            start_response("503 Slow Down", [("Content-Length", "0")])
            return [b""]
        return moto(environ, start_response)

    server = make_server("127.0.0.1", 0, answer, threaded=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for name, value in {
        "AWS_ACCESS_KEY_ID": "nobody",
        "AWS_SECRET_ACCESS_KEY": "nothing",
        "AWS_REGION": "ap-northeast-1",
        "AWS_MAX_ATTEMPTS": "2",
        "AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{server.port}",
    }.items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    httpx.post(f"http://127.0.0.1:{server.port}/moto-api/reset")  # its state is the process's
    s3fs.S3FileSystem().mkdir("store")
    yield lambda fail: down.set() if fail else down.clear()
    server.shutdown()
    s3fs.S3FileSystem.clear_instance_cache()


def test_a_store_that_answers_503_for_a_while_loses_nothing(
    s3: Callable[[bool], None], world: World, whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = "s3://store/checkpoints"
    looks = iter([False] * 5 + [True])
    with pytest.raises(Interrupted):
        alone(world, "s3", checkpoints=place, told_to_end=lambda: next(looks))
    capsys.readouterr()
    done = alone(world, "s3", checkpoints=place, told_to_end=failing_between(2, 3, s3))
    assert capsys.readouterr().err.count("was not saved, that of update 7 is kept: s3://store") == 2
    assert digest(done) == digest(whole)


def test_environments_that_cannot_be_shared_out_evenly_are_refused() -> None:
    with pytest.raises(TrainingError, match="32 environments cannot be shared out evenly over 3 ranks"):
        Ranks(0, 3).share(32)


def test_ranks_that_cannot_be_shared_out_over_the_nodes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PET_NNODES", "3")
    with pytest.raises(ParamsError, match=r"train\.ranks = 4 cannot be shared out evenly over 3 nodes"):
        launch._under_torchrun(4)


def test_nodes_without_a_place_to_meet_are_refused_before_they_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PET_NNODES", "2")
    monkeypatch.delenv("PET_RDZV_ENDPOINT", raising=False)
    monkeypatch.delenv("PET_MASTER_ADDR", raising=False)
    with pytest.raises(ParamsError, match="neither PET_RDZV_ENDPOINT nor PET_MASTER_ADDR says where"):
        launch._under_torchrun(2)


@pytest.mark.parametrize(
    ("codes", "code"),
    [
        ({75}, 75),  # all told to end
        ({-9, 75}, 75),  # one killed: by the kernel, with its machine
        ({-9, 1}, 75),
        ({2, 75}, 2),  # the first alone validates and publishes: the others lose it
        ({2, -15}, 2),
        ({1, 75}, 2),
    ],
)
def test_a_fault_of_one_rank_is_no_interruption_of_the_run(codes: set[int], code: int) -> None:
    assert launch._code_of(codes) == code


@pytest.mark.parametrize("given", ["2", "1:4", "two", "0"])
def test_a_run_of_one_rank_on_several_nodes_or_on_no_number_of_them_is_refused(
    given: str, world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each node would train the same once more, into the same store."""
    monkeypatch.setenv("PET_NNODES", given)
    words = ["ppo.py", "--fold", "0", "--seed", "1", "--out", "out", "--params", str(world.params_file)]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as ended:
        launch.main(load(ROOT / "training/ppo.py").learn)
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert ("train.ranks = 1 cannot be" if given == "2" else f"PET_NNODES = '{given}'") in said


@pytest.mark.parametrize("told", [True, False])
def test_a_lost_process_is_not_said_to_have_been_told_to_end(told: bool) -> None:
    trainers = _Trainers()
    end = "import signal, sys; signal.signal(signal.SIGTERM, lambda *_: sys.exit(75)); "
    end += "print('update 1/2', flush=True); print('exitcode: -9'); "
    end += "signal.pause()" if told else "sys.exit(75)"
    report = (lambda share: trainers.end()) if told else (lambda share: None)
    with pytest.raises(Interrupted) as caught:
        trainers.run(Run(0, 1), [sys.executable, "-c", end], report)
    assert ("told to end, what was done is saved" in str(caught.value)) is told
    assert ("exitcode: -9" in str(caught.value)) is not told


def test_checkpoints_of_another_run_are_refused(tmp_path: Path) -> None:
    assert Checkpoints(tmp_path, "one").save(1, {}, {})
    with pytest.raises(TrainingError, match="a checkpoint of other data, parameters or code"):
        Checkpoints(tmp_path, "other").load()


def test_what_others_keep_in_the_folder_stays(tmp_path: Path) -> None:
    (tmp_path / "notes.json").write_text("{}")
    saved = Checkpoints(tmp_path, "one")
    for update in range(1, 5):
        assert saved.save(update, {"update": update}, {})
    assert len(list(tmp_path.glob("*.pt"))) == 4  # two parts of each of two
    assert Checkpoints(tmp_path, "one").load() == ({"update": 4}, {})
    saved.clear()
    assert [path.name for path in tmp_path.iterdir()] == ["notes.json"]


def test_a_run_that_is_not_there_is_refused(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    with pytest.raises(TrainingError, match="there is no run fold-9/seed-1"):
        train_one(world.params, "fold-9/seed-1", bars=world.bars, features=world.features)


def test_a_damaged_finished_run_is_named_and_does_not_count(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run/model.onnx").write_text("weights")
    finished_runs = Finished(str(tmp_path), "key", 1)
    finished_runs.put("fold-0/seed-1", tmp_path / "run")
    assert finished_runs.has("fold-0/seed-1")
    assert not finished_runs.has("fold-0/seed-11")
    assert not Finished(str(tmp_path), "key", 2).has("fold-0/seed-1")
    (archive,) = tmp_path.glob("runs/*/*.tar")
    archive.write_bytes(archive.read_bytes()[:-1])
    assert not finished_runs.has("fold-0/seed-1")
    assert archive.name in capsys.readouterr().err
    with pytest.raises(TrainingError, match="fold-0/seed-1 is not there"):
        finished_runs.unpack("fold-0/seed-1", tmp_path / "out")


def test_a_trainer_that_would_publish_nowhere_is_refused(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ppo: ModuleType = load(ROOT / "training/ppo.py")
    monkeypatch.setattr(
        sys, "argv", ["ppo.py", "--fold", "0", "--seed", "1", "--params", str(world.params_file)]
    )
    with pytest.raises(SystemExit) as ended:
        launch.main(ppo.learn)
    assert ended.value.code == 2
    assert "give --out, or --store" in capsys.readouterr().err
