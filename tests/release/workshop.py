"""A small repository with a reproduced candidate, and what people do in it: no training, no torch."""

from __future__ import annotations

import base64
import datetime as dt
import json
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import polars as pl
import yaml
from onnx import TensorProto, helper, numpy_helper

from sekisho import features
from sekisho.backtest.evaluate import BASELINES
from sekisho.backtest.gate import judge, verdict
from sekisho.backtest.selection import count_and_select
from sekisho.checkout import checked_out
from sekisho.params import load_params, lookup, parse_yaml
from sekisho.release.dvclock import sha256_of, track
from sekisho.release.export import export_release
from sekisho.release.judgement import INPUTS, JUDGE, candidate_digest
from sekisho.release.local_authority import open_local_authority
from sekisho.release.manifest import canonical, read_manifest
from sekisho.release.pack import export_pack
from sekisho.release.policy import load_trust
from sekisho.release.promote import promote, rollback
from sekisho.release.revoke import ensure_local_list, revoke
from sekisho.release.sign import sign_release
from sekisho.release.signer import Desk, install_local_root, local_identity, predicate_digest
from sekisho.release.verify import VerifiedRelease, verify_release

ROOT = Path(__file__).resolve().parents[2]
SYMBOLS = ("AAA", "BBB", "CCC")
SESSIONS = [dt.date(2025, 1, 6) + dt.timedelta(days=day) for day in range(20)]
BARS = 4  # a session
FIGURES: dict[str, Any] = {  # of an agent that passes every rule of the gate
    "sharpe": 1.2,
    "sharpe_low": 0.3,
    "sharpe_high": 2.0,
    "max_drawdown": 0.05,
    "turnover": 0.4,
    "sharpe_by_cost": {"0": 1.6, "1": 1.2, "2": 0.8},
    "sharpe_by_seed": {"1": 1.2, "2": 1.1},
    "capacity": {"multiple": 30.0},
}


@dataclass
class Workshop:
    """One scratch repository and the commands' arguments for it."""

    repo: Path
    approval: dict[str, Any] = field(default_factory=dict)

    @property
    def trust(self) -> Path:
        return self.repo / "trust"

    @property
    def release(self) -> Path:
        return self.repo / "releases/policy/1"

    @property
    def folder(self) -> Path:
        return self.repo / ".sekisho/local-authority"

    @property
    def desk(self) -> Desk:
        params = load_params(self.repo / "params.yaml").release
        return Desk(self.repo, self.trust, "local", self.folder, "releaser", params)

    def open_local(self) -> None:
        """Make the local authority, its root and its revocation list."""
        install_local_root(self.trust, self.folder)
        ensure_local_list(self.desk)

    def lock(self) -> None:
        """Write the dvc.lock of the workspace as it is."""
        write_lock(self.repo)

    def figures(self, **agent: Any) -> None:
        """Write other figures of the agent, and what the gate makes of them."""
        write_figures(self.repo, **agent)

    def commit(self, message: str = "release") -> None:
        git(self.repo, "add", "-A")
        git(self.repo, "commit", "--allow-empty", "-qm", message)

    def export(self) -> Path:
        return export_release(self.repo, load_params(self.repo / "params.yaml"), "releaser")

    def record(self, release: Path, **changes: Any) -> Path:
        """The approval record that the forge would write for ``release``, with ``changes``."""
        manifest, _ = read_manifest(release)
        commit, tree = checked_out(self.repo)
        value = {
            "pr": 7,
            "url": "https://local.sekisho.test/pull/7",
            "head_sha": "b" * 40,
            "merge_sha": commit,
            "tree": tree,
            "dvc_lock_sha256": sha256_of(self.repo / "dvc.lock"),
            "report_sha256": manifest.sha256("report.md"),
            "author": "engineer",
            "approver": "reviewer",
            "permission": "write",
            "approved_at": "2026-01-02T03:04:05Z",
            "comment_id": 11,
        }
        value |= changes
        word = {key: value[key] for key in ("permission", "approved_at", "comment_id")}
        path = self.repo / "approval.json"
        path.write_text(json.dumps({"approvers": [{"person": value["approver"], **word}], **value}))
        return path

    def sign(self, release: Path | None = None, **changes: Any) -> None:
        release = release or self.release
        sign_release(self.desk, release, self.record(release, **changes))

    def verify(
        self, release: Path | None = None, environment: str = "local", **options: Any
    ) -> VerifiedRelease:
        return verify_release(release or self.release, trust=self.trust, environment=environment, **options)

    def forge(
        self,
        fact: str,
        change: Callable[[dict[str, Any]], None] = lambda statement: None,
        *,
        folder: Path | None = None,
        release: Path | None = None,
        san: str | None = None,
        raw: Callable[[bytes], bytes] = lambda statement: statement,
        **extensions: str | None,
    ) -> None:
        """Replace a bundle by one with a changed statement or certificate (``e12="…"`` sets arc 12).

        ``raw`` changes the statement's bytes.
        """
        path = (release or self.release) / f"bundles/{fact}.sigstore.json"
        statement = payload(path)
        change(statement)
        path.write_bytes(self.seal(fact, raw(canonical(statement)), folder, san, extensions))

    def forge_list(self, **changes: Any) -> None:
        """Replace the revocation list by one with a changed predicate, signed by the right workflow."""
        path = self.trust / "local/revoked.sigstore.json"
        statement = payload(path)
        issued = dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")  # the fixture's may be minutes old
        statement["predicate"].update({"issued": issued} | changes)
        statement["subject"][0]["digest"]["sha256"] = predicate_digest(statement["predicate"])
        path.write_bytes(self.seal("revocation", canonical(statement), None, None, {}))

    def seal(
        self,
        fact: str,
        statement: bytes,
        folder: Path | None,
        san: str | None,
        extensions: dict[str, str | None],
    ) -> bytes:
        """A bundle of any bytes."""
        from sigstore.dsse import Statement

        unchecked = object.__new__(Statement)  # its own checks would not let the worst of it pass
        unchecked._contents = statement
        authority = open_local_authority(folder or self.folder)
        policy = load_trust(self.trust, "local").policy
        subject, arcs = local_identity(policy, fact.partition("-")[0], checked_out(self.repo)[0])  # type: ignore[arg-type]
        for name, value in extensions.items():
            arcs = {arc: text for arc, text in arcs.items() if arc != name[1:]}
            arcs |= {name[1:]: value} if value is not None else {}
        with authority.context().signer(authority.token(san or subject, arcs)) as signer:
            bundle = signer.sign_dsse(unchecked)
        return canonical(json.loads(bundle.to_json()))

    def second_release(self) -> Path:
        """Another candidate (a new report), exported and signed as policy/2."""
        folder = self.next_release(1.3)
        self.sign(folder)
        return folder

    def next_release(self, sharpe: float) -> Path:
        """Another candidate whose report says so, committed and exported, not signed."""
        self.commit()
        (self.repo / "build/report/report.md").write_text(f"# Report\n\nSharpe {sharpe}\n")
        self.lock()
        self.commit("better candidate")
        return self.export()

    def rolled_back(self) -> Path:
        """policy/3: a rollback to policy/1, merged and signed (after :meth:`second_release`)."""
        self.commit()
        folder = rollback(self.desk, 1, "seq 2 loses money", "local")
        self.commit("rollback PR")
        self.sign(folder)
        return folder


def payload(bundle: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(
        base64.b64decode(json.loads(bundle.read_bytes())["dsseEnvelope"]["payload"])
    )
    return value


def git(repo: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=engineer", "-c", "user.email=engineer@local.test"]
    subprocess.run(["git", "-C", str(repo), *identity, *arguments], check=True, capture_output=True)


def write_model(path: Path, assets: int, width: int, *, scale: float = 0.01, opset: int = 18) -> None:
    """An agent that takes ``scale`` × tanh of each asset's first feature as its weight."""
    nodes = [
        helper.make_node("Slice", ["observation", "zero", "one", "axis"], ["first"]),
        helper.make_node("Squeeze", ["first", "axis"], ["flat"]),
        helper.make_node("Tanh", ["flat"], ["bounded"]),
        helper.make_node("Mul", ["bounded", "scale"], ["target_weights"]),
    ]
    constants = {"zero": [0], "one": [1], "axis": [2]}
    initializers = [numpy_helper.from_array(np.array(v, dtype=np.int64), k) for k, v in constants.items()]
    initializers.append(numpy_helper.from_array(np.array(scale, dtype=np.float32), "scale"))
    graph = helper.make_graph(
        nodes,
        "agent",
        [helper.make_tensor_value_info("observation", TensorProto.FLOAT, ["n", assets, width + 1])],
        [helper.make_tensor_value_info("target_weights", TensorProto.FLOAT, ["n", assets])],
        initializers,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    onnx.save(model, path)


def write_features(folder: Path, names: tuple[str, ...]) -> None:
    folder.mkdir(parents=True)
    rng = np.random.default_rng(3)
    for day in SESSIONS:
        closes = [dt.datetime(day.year, day.month, day.day, 1, 5 * bar, tzinfo=dt.UTC) for bar in range(BARS)]
        keys = [(symbol, close, day) for close in closes for symbol in SYMBOLS]
        table = pl.DataFrame(keys, schema=["symbol", "ts_close", "session"], orient="row")
        values = rng.normal(size=(len(keys), len(names))).astype(np.float32)
        table = table.with_columns(pl.Series(name, values[:, i]) for i, name in enumerate(names))
        table.write_parquet(folder / f"{day}.parquet")


def write_candidate(repo: Path) -> None:
    """What ``dvc repro`` leaves behind, as far as a release reads it."""
    params = load_params(repo / "params.yaml")
    names = features.feature_names(params.features)
    write_features(repo / "build/features", names)
    (repo / "build/bars").mkdir()
    (repo / "build/bars/2025-01-06.parquet").write_bytes(b"bars")
    windows = {"train": SESSIONS[:10], "validation": SESSIONS[11:14], "test": SESSIONS[15:]}
    days = {name: [str(span[0]), str(span[-1])] for name, span in windows.items()}
    for fold in (0, 1):
        agent = repo / f"build/train/fold-{fold}/seed-{params.train.seeds[0]}"
        agent.mkdir(parents=True)
        write_model(agent / "model.onnx", len(SYMBOLS), len(names), scale=0.01 * (fold + 1))
        run = {"fold": fold, "windows": days, "onnx_sha256": sha256_of(agent / "model.onnx")}
        (agent / "run.json").write_text(json.dumps(run))
        (agent / "curve.csv").write_text("update,samples\n1,64\n")
    (repo / "build/report").mkdir()
    (repo / "build/report/report.md").write_text("# Report\n\nSharpe 1.2\n")
    (repo / "build/reference.json").write_text("{}\n")
    (repo / "metrics").mkdir()
    write_figures(repo)


def write_figures(repo: Path, **agent: Any) -> None:
    """The backtest's figures (``agent`` changes some), the trials', and what the gate makes of them."""
    params = load_params(repo / "params.yaml")
    models = [repo / f"build/train/fold-{fold}/seed-{params.train.seeds[0]}/model.onnx" for fold in (0, 1)]
    rng = np.random.default_rng(5)
    days = [dt.date(2024, 1, 1) + dt.timedelta(days=day) for day in range(200)]
    returns = {"agent": rng.normal(0.004, 0.01, 200)} | {
        name: rng.normal(-0.001, 0.01, 200) for name in BASELINES
    }
    pl.DataFrame({"session": days, **returns}).write_csv(repo / "metrics/returns.csv")
    backtest = {
        "returns_sha256": sha256_of(repo / "metrics/returns.csv"),
        "window": {"first": str(days[0]), "last": str(days[-1]), "sessions": 200},
        "sessions_per_year": 243.0,
        "opening": {
            "candidate": candidate_digest(models),
            "train": track(repo / "build/train", "build/train").md5,
        },
        "agent": FIGURES | agent,
        "baselines": {"cash": {"sharpe_by_cost": {"1": 0.0, "2": 0.0}}},
        "over_champion": None,
    }
    (repo / "metrics/backtest.json").write_text(json.dumps(backtest))
    lookahead = {"features": 9, "leaks": []}
    (repo / "metrics/lookahead.json").write_text(json.dumps(lookahead))
    trials = count_and_select(repo / "metrics/backtest.json", repo / "metrics/returns.csv", params, repo)
    (repo / "metrics/trials.json").write_text(json.dumps(trials))
    rules = judge(backtest, trials, lookahead, params.gate)
    (repo / "metrics/gate.json").write_text(json.dumps(verdict(rules)))


def pipeline(repo: Path) -> dict[str, dict[str, Any]]:
    """Stages as a dvc.yaml has them, with what each reads and gives."""
    return {
        "validate": {"cmd": "v", "deps": ["data/bars"], "params": ["data"], "outs": ["build/bars"]},
        "train": {
            "cmd": "t",
            "deps": ["build/bars"],
            "params": ["train.seeds"],
            "outs": ["build/features", "build/train", "build/reference.json"],
        },
        "backtest": {
            "cmd": "b",
            "deps": ["build/train"],
            "outs": [{"metrics/returns.csv": {"cache": False}}],
            "metrics": [{"metrics/backtest.json": {"cache": False}}],
        },
        "trials": {
            "cmd": "n",
            "deps": ["metrics/backtest.json", "metrics/returns.csv"],
            "always_changed": True,
            "metrics": [{f"metrics/{name}.json": {"cache": False}} for name in ("trials", "lookahead")],
        },
        "gate": {
            "cmd": "g",
            "deps": [*(f"metrics/{name}.json" for name in INPUTS), JUDGE],
            "params": ["gate"],
            "metrics": [{"metrics/gate.json": {"cache": False}}],
        },
        "report": {"cmd": "r", "deps": ["metrics/gate.json"], "outs": ["build/report"]},
    }


def write_lock(repo: Path) -> None:
    """The dvc.yaml, and the dvc.lock that DVC would write for the workspace as it is."""
    params = parse_yaml((repo / "params.yaml").read_bytes())
    stages = pipeline(repo)

    def entry(path: Any) -> dict[str, str]:
        path = path if isinstance(path, str) else next(iter(path))
        known = (repo / path).exists()
        return {
            "path": path,
            "hash": "md5",
            "md5": track(repo / path, path).md5 if known else "0" * 32 + ".dir",
        }

    locked = {}
    for name, stage in stages.items():
        locked[name] = {
            "cmd": stage["cmd"],
            "deps": [entry(path) for path in stage["deps"]],
            "outs": [entry(path) for path in [*stage.get("outs", []), *stage.get("metrics", [])]],
        }
        if "params" in stage:
            locked[name]["params"] = {"params.yaml": {key: lookup(params, key) for key in stage["params"]}}
    (repo / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))
    (repo / "dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": locked}))


def build_repo(repo: Path) -> Workshop:
    shutil.copytree(ROOT / "trust", repo / "trust", ignore=shutil.ignore_patterns("local"))
    shutil.copy(ROOT / "params.yaml", repo)
    (repo / JUDGE).parent.mkdir(parents=True)
    shutil.copy(ROOT / JUDGE, repo / JUDGE)
    (repo / ".gitignore").write_text("/build/\n/.sekisho/\n/approval.json\n")
    (repo / "requirements").mkdir()
    (repo / "requirements/dev.txt").write_text("numpy==2.2\n")
    git(repo, "init", "-q", "-b", "main")
    write_candidate(repo)
    write_lock(repo)
    git(repo, "add", "-A")
    git(repo, "commit", "-qm", "candidate")
    return Workshop(repo)


def _pack(shop: Workshop) -> None:
    today = dt.datetime.now(dt.UTC).date()
    export_pack(shop.repo, shop.trust, "local", today - dt.timedelta(days=1), today, shop.repo / "build/pack")


# every command that writes, as the tests of crashes run it
COMMANDS: dict[str, Callable[[Workshop], object]] = {
    "export": Workshop.export,
    "sign": Workshop.sign,
    "promote": lambda shop: promote(shop.desk, shop.release, "local", "first"),
    "rollback": lambda shop: rollback(shop.desk, 1, "seq 2 loses money", "local"),
    "revoke": lambda shop: revoke(shop.desk, shop.release, "trained on bad data", "local"),
    "pack": _pack,
}
