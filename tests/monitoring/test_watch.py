"""The kill switch without GitHub: losses of the running session, the safe action, then the release before."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import polars as pl
import pytest
import yaml
from click.testing import CliRunner

from sekisho.cli import main
from sekisho.cli.monitoring import losses
from sekisho.errors import CannotCheck
from sekisho.monitoring.halt import ConfigMapSwitch, FileSwitch, open_switch, step_back
from sekisho.monitoring.verdict import Verdict
from sekisho.monitoring.watch import watch_and_turn
from sekisho.release.manifest import canonical
from sekisho.serving.predictions import PredictionLog
from sekisho.serving.switch import Position, read_turn, write_switch

REPO = Path(__file__).resolve().parents[2]
TINY = 1e-6  # a loss that half a session of the world surely has
START = dt.datetime(2026, 6, 1, tzinfo=dt.UTC)
HALF = 33  # bars of the running session that are over


@dataclass
class Desk:
    """Three whole sessions and half of the fourth, of release 2, after which release 1 could trade."""

    world: object
    folder: Path
    digest: str
    limit: float = TINY
    logged: list[dt.date] = field(default_factory=list)

    @property
    def switch(self) -> Path:
        return self.folder / "switch"

    def trade(self, session: int, bars: int = 66, seq: int = 2) -> dt.datetime:
        """Log the first bars of a session and bring their live bars; returns when the last of them ended."""
        world, day = self.world, self.world.calm.sessions[session]  # type: ignore[attr-defined]
        log = PredictionLog(self.folder / "log" / "pod", capacity=10**6, batch=1024, interval=60.0)
        digest = self.digest if seq == 2 else world.digest  # type: ignore[attr-defined]
        world.add(log, world.calm, day, rows=range(bars), seq=seq, digest=digest)  # type: ignore[attr-defined]
        log.close()
        times, _ = world.calm.of(day)  # type: ignore[attr-defined]
        path = world.bars["calm"] / f"{day}.parquet"  # type: ignore[attr-defined]
        ended = times[bars - 1].item().replace(tzinfo=dt.UTC)
        pl.read_parquet(path).filter(pl.col("ts_close") <= ended).write_parquet(
            self.folder / "bars" / path.name
        )
        return ended + dt.timedelta(seconds=1)

    def watch(self, now: dt.datetime) -> tuple[Verdict, Position | None]:
        params = self.world.params  # type: ignore[attr-defined]
        limits = params.monitoring.model_copy(update={"max_session_loss": self.limit})
        return watch_and_turn(
            self.folder / "log",
            self.folder / "policy" / "2",
            params.model_copy(update={"monitoring": limits}),
            self.folder / "bars",
            str(self.switch),
            now,
        )


@pytest.fixture
def desk(world, tmp_path: Path) -> Desk:
    for seq in (1, 2):
        shutil.copytree(world.release, tmp_path / "policy" / str(seq))
    manifest = tmp_path / "policy" / "2" / "manifest.json"
    raw = canonical(json.loads(manifest.read_bytes()) | {"seq": 2, "previous": world.digest})
    manifest.write_bytes(raw)
    (tmp_path / "bars").mkdir()
    for path in sorted(world.bars["calm"].glob("*.parquet"))[:5]:  # before the live sessions
        shutil.copy(path, tmp_path / "bars")
    write_switch(tmp_path / "switch", Position.ON, "trading", START)
    made = Desk(world, tmp_path, hashlib.sha256(raw).hexdigest())
    for session in range(3):
        made.trade(session)
    return made


def test_a_loss_of_the_running_session_turns_the_switch_off_at_once(desk: Desk) -> None:
    now = desk.trade(3, HALF)
    desk.limit = 0.5
    verdict, moved = desk.watch(now)
    assert (verdict.state, verdict.last_session, moved) == ("ok", str(now.date()), None), verdict.problems
    desk.limit = TINY
    verdict, moved = desk.watch(now)
    assert (verdict.state, verdict.exit_code, moved) == ("alarm", 1, Position.OFF)
    turned = read_turn(desk.switch)
    assert (turned.position, turned.at) == (Position.OFF, now)
    assert turned.reason.startswith("halted: session-loss")
    assert desk.watch(now)[1] is None  # the session of the loss is not over


def test_the_release_before_trades_in_a_later_session_and_its_loss_is_the_end(desk: Desk) -> None:
    off = desk.trade(3, HALF)
    assert desk.watch(off)[1] is Position.OFF
    assert desk.watch(off + dt.timedelta(hours=20))[1] is None  # before the next bell
    later = desk.trade(4, 2)
    assert desk.watch(later)[1] is Position.PREVIOUS
    turned = read_turn(desk.switch)
    assert (turned.position, turned.at) == (Position.PREVIOUS, later)
    verdict, moved = desk.watch(later)  # what release 2 lost is known; release 1 has not traded yet
    assert (verdict.seq, moved) == (1, None)
    after = desk.trade(5, 66, seq=1)
    verdict, moved = desk.watch(after)
    assert (verdict.seq, [a.family for a in verdict.alarms]) == (1, ["session-loss"])
    assert moved is Position.OFF
    assert not read_turn(desk.switch).reason.startswith("halted:")
    assert desk.watch(desk.trade(6, 2, seq=1))[1] is None  # people decide


@pytest.mark.parametrize("position", [Position.OFF, Position.PREVIOUS])
def test_a_turn_by_a_person_stays_as_it_is(desk: Desk, position: Position) -> None:
    now = desk.trade(3, HALF)
    write_switch(desk.switch, position, "we look at it", now - dt.timedelta(days=1))
    assert desk.watch(now)[1] is None
    assert read_turn(desk.switch).position is position


def test_a_person_who_turns_it_on_after_the_loss_is_respected_until_the_next_one(desk: Desk) -> None:
    off = desk.trade(3)
    assert desk.watch(off)[1] is Position.OFF
    write_switch(desk.switch, Position.ON, "known", off + dt.timedelta(hours=1))
    assert desk.watch(off + dt.timedelta(hours=2))[1] is None
    assert desk.watch(desk.trade(4))[1] is Position.OFF


def test_live_bars_that_are_late_cannot_be_judged(desk: Desk) -> None:
    desk.limit = 0.5
    now = desk.trade(3, HALF)
    verdict, moved = desk.watch(now + dt.timedelta(minutes=30))
    assert (verdict.state, moved) == ("cannot-judge", None)
    assert "later losses are not known" in verdict.problems[0]
    (desk.folder / "bars" / f"{now.date()}.parquet").unlink()
    assert desk.watch(now + dt.timedelta(minutes=30))[0].state == "cannot-judge"


def test_the_command_turns_the_switch_and_exits_1(desk: Desk) -> None:
    now = desk.trade(3, HALF)
    params = desk.folder / "params.yaml"
    text = (REPO / "params.yaml").read_text()
    params.write_text(text.replace("max_session_loss: 0.04", f"max_session_loss: {TINY:.6f}"))
    words = ["--predictions", desk.folder / "log", "--release", desk.folder / "policy" / "2"]
    words += ["--bars", desk.folder / "bars", "--switch", desk.switch, "--at", now.isoformat()]
    done = CliRunner().invoke(main, ["drift", "losses", *map(str, words), "--params", str(params)])
    assert done.exit_code == 1, done.output
    assert read_turn(desk.switch).position is Position.OFF


# the ConfigMap that the pods mount


@dataclass
class Cluster:
    """What the API server would keep of one ConfigMap, and who asked."""

    data: dict[str, str]
    version: int = 1
    tokens: list[str] = field(default_factory=list)
    url: str = ""


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    state = Cluster({"switch": "on 2026-06-01T00:00:00+00:00 trading\n"})

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.tokens.append(self.headers["Authorization"])
            self.answer(200, {"metadata": {"resourceVersion": str(state.version)}, "data": state.data})

        def do_PATCH(self) -> None:
            change = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if change["metadata"]["resourceVersion"] != str(state.version):
                return self.answer(409, {})
            assert self.headers["Content-Type"] == "application/merge-patch+json"
            assert self.path == "/api/v1/namespaces/sekisho-production/configmaps/switch"
            state.data.update(change["data"])
            state.version += 1
            return self.answer(200, {})

        def answer(self, status: int, content: object) -> None:
            raw = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        def log_message(self, *words: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        state.url = f"http://127.0.0.1:{server.server_port}"
        yield state
        server.shutdown()


@pytest.fixture
def mounted(cluster: Cluster, tmp_path: Path) -> ConfigMapSwitch:
    (tmp_path / "token").write_text("of the service account\n")
    return ConfigMapSwitch("sekisho-production", "switch", cluster.url, tmp_path)


def test_the_pods_config_map_is_turned_from_inside_the_cluster(
    cluster: Cluster, mounted: ConfigMapSwitch
) -> None:
    assert mounted.read().position is Position.ON
    mounted.turn(Position.OFF, "halted: session-loss", START)
    assert cluster.data == {"switch": "off 2026-06-01T00:00:00+00:00 halted: session-loss\n"}
    assert cluster.tokens == ["Bearer of the service account"]
    assert step_back(mounted, START + dt.timedelta(days=1), START + dt.timedelta(days=1)) is Position.PREVIOUS


def test_who_turned_it_meanwhile_is_not_written_over(cluster: Cluster, mounted: ConfigMapSwitch) -> None:
    mounted.read()
    cluster.version += 1
    with pytest.raises(CannotCheck, match="409"):
        mounted.turn(Position.OFF, "halted: late", START)
    assert cluster.data["switch"].startswith("on ")


def test_a_cluster_that_does_not_answer_is_an_error_that_says_to_turn_it_by_hand(tmp_path: Path) -> None:
    with pytest.raises(CannotCheck, match="token") as raised:  # no service account is mounted here
        open_switch("configmap:sekisho-production/switch").read()
    assert "by hand" in raised.value.remedy
    with pytest.raises(CannotCheck, match="configmap:<namespace>/<name>"):
        open_switch("configmap:switch")
    assert isinstance(open_switch(str(tmp_path / "switch")), FileSwitch)


# its manifest


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
def test_the_cron_job_calls_the_command_for_the_promoted_release_and_may_turn_the_switch_alone(
    tmp_path: Path,
) -> None:
    copy = shutil.copytree(REPO / "deploy", tmp_path / "deploy")
    path = copy / "policy" / "production" / "kustomization.yaml"
    overlay = yaml.safe_load(path.read_text())
    overlay["components"].append("../losses")
    path.write_text(yaml.safe_dump(overlay))
    (path.parent / "release.env").write_text(f"RELEASE=policy/12@sha256:{'ab' * 32}\n")
    words = ["kubectl", "kustomize", str(path.parent)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    objects = {(o["kind"], o["metadata"]["name"]): o for o in yaml.safe_load_all(done.stdout)}
    spec = objects["CronJob", "losses"]["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    assert container["env"][0]["valueFrom"] == {"fieldRef": {"fieldPath": "metadata.namespace"}}
    group, command, *words = container["args"]
    assert (group, command) == ("drift", "losses")
    given = losses.make_context(command, words).params
    assert (given["release"], given["switch"]) == ("policy/12", "configmap:$(NAMESPACE)/switch")
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert objects["Role", "losses"]["rules"] == [
        {
            "apiGroups": [""],
            "resources": ["configmaps"],
            "resourceNames": ["switch"],
            "verbs": ["get", "patch"],
        }
    ]
    switch = copy / "policy" / "traffic" / "production" / "kustomization.yaml"
    assert {g["name"] for g in yaml.safe_load(switch.read_text())["configMapGenerator"]} == {"switch"}
