"""`make demo`: the whole loop on this machine, in a scratch copy, with the commands the workflows use.

An engineer's pull request is trained, judged, reported, approved, merged, signed, promoted and served; the
market is replayed through the server, then it changes; the scheduled check finds it and opens the retrain
pull request; one prediction is traced back to the people and data behind it.
"""

from __future__ import annotations

import argparse
import json
import shutil
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import yaml

from sekisho.calendar import Calendar
from sekisho.data.synthetic import BAR, CALENDAR, SAMPLE_SEED, sample_sessions
from steps import REPO, Scratch, StepFailed, console, end_with_parent, merge_params, picture, tell

BOT = "sekisho[bot]"  # the account that forge.bot names in params.yaml
WARM_UP = 2  # sessions of live bars that the first replayed one's features and costs rest on
CALM_SESSIONS = 8  # before the market changes, the warm-up included
CHANGED_SESSIONS = 6
CHANGE = ["--volatility", "2.0", "--correlation", "0.8"]
MODEL = "policy"
PICTURE_WIDTH = 124  # columns


class Demo:
    """The steps in order; each method is one step of the story."""

    def __init__(self, scratch: Scratch, fast: bool) -> None:
        self.s, self.fast = scratch, fast
        self.forge = scratch.folder / "forge"
        self.market = scratch.folder / "market" / "bars"
        self.predictions = scratch.folder / "predictions"
        self.market_log = scratch.folder / "logs" / "market.log"
        self.server_log = scratch.folder / "logs" / "server.log"
        self.pages = scratch.folder / "pages"

    def sekisho(self, *words: str | Path, cwd: Path, actor: str = BOT, expect: tuple[int, ...] = (0,)) -> str:
        return self.s.run("sekisho", *words, cwd=cwd, actor=actor, expect=expect)

    def git(self, *words: str | Path, cwd: Path, actor: str = BOT) -> str:
        return self.s.run("git", *words, cwd=cwd, actor=actor).strip()

    # 1
    def copy(self) -> None:
        with self.s.step("Scratch copy with a bare origin; your checkout is not touched") as notes:
            if not (REPO / ".git").exists():
                raise StepFailed(
                    "this folder is not a git checkout, and pull requests are made of commits"
                    "\n  remedy: git clone the repository, an unpacked archive will not do"
                )
            if self.git("rev-parse", "--is-shallow-repository", cwd=REPO) != "false":
                raise StepFailed(
                    "this checkout is a shallow clone: without its history the gate refuses every candidate"
                    "\n  remedy: git fetch --unshallow"
                )
            origin = self.forge / "origin.git"
            self.git("clone", "--quiet", "--bare", REPO, origin, cwd=self.s.folder)
            head = self.git("rev-parse", "HEAD", cwd=REPO)
            self.git("update-ref", "refs/heads/main", head, cwd=origin)
            self.git("symbolic-ref", "HEAD", "refs/heads/main", cwd=origin)
            members = {"engineer": "write", "reviewer": "write", "outsider": "read", BOT: "write"}
            (self.forge / "members.yaml").write_text(yaml.safe_dump(members, sort_keys=False))
            self.ci, self.engineer = self.s.clone("ci"), self.s.clone("engineer")
            self.sekisho("sign", "--init-local", cwd=self.ci)
            if self.fast:
                merge_params(self.ci / "params.yaml", REPO / "demo" / "fast.yaml")
            self._fill_in_repository_ids(self.ci / "trust" / "policy.yaml")
            self.git("add", "trust", "releases", "params.yaml", cwd=self.ci)
            self.git(
                "commit", "--quiet", "-m", "Demo: trust this laptop's own signing authority", cwd=self.ci
            )
            self.git("push", "--quiet", "origin", "HEAD:main", cwd=self.ci)
            notes.append(f"commit {head[:12]} in {self.s.shown(self.s.folder)}")
            if self.git("status", "--porcelain", cwd=REPO):
                notes.append("what is not committed here is not part of it")

    @staticmethod
    def _fill_in_repository_ids(policy: Path) -> None:
        """What a firm does once for its own repository; without it staging and production verify nothing."""
        text = policy.read_text()
        for name in ("repository_id", "owner_id"):
            text = text.replace(f"{name}: 0", f"{name}: 1")
        policy.write_text(text)

    # 2
    def open_pull_request(self) -> None:
        with self.s.step("An engineer changes one parameter and opens a pull request") as notes:
            here = self.engineer
            self.git("pull", "--quiet", "origin", "main", cwd=here)
            self.git("switch", "--quiet", "-c", "gentler-risk", cwd=here)
            overlay = self.s.folder / "change.yaml"
            overlay.write_text("market:\n  risk_aversion: 0.06\n")
            merge_params(here / "params.yaml", overlay)
            self.git(
                "commit", "--quiet", "-am", "Raise the risk aversion a little", cwd=here, actor="engineer"
            )
            self.git("push", "--quiet", "origin", "gentler-risk", cwd=here)
            made = self.sekisho(
                "pr", "open", "--branch", "gentler-risk", "--title", "Raise the risk aversion a little",
                "--json", cwd=here, actor="engineer",
            )  # fmt: skip
            self.pr = str(json.loads(made)["number"])
            notes.append(f"PR {self.pr}: market.risk_aversion changes")

    # 3, 4
    def reproduce(self, branch: str, pr: str) -> None:
        """What the pr workflow does on a runner: reproduce, commit the lock and metrics, report."""
        with self.s.step(f"CI reproduces the pipeline of {branch} (dvc pull, dvc repro)") as notes:
            self.git("fetch", "--quiet", "origin", cwd=self.ci)
            self.git("switch", "--quiet", "--force-create", branch, f"origin/{branch}", cwd=self.ci)
            if branch.startswith("retrain/"):
                self.s.run("dvc", "pull", "--remote", "retrain", "data.dvc", cwd=self.ci)
            else:
                self.s.run("dvc", "pull", "data.dvc", cwd=self.ci)
            # a branch's word on its own results counts for nothing: DVC compares with main's
            self.git("checkout", "origin/main", "--", "dvc.lock", "metrics", cwd=self.ci)
            log = self.s.run("dvc", "repro", cwd=self.ci)
            ran = [line.split("'")[1] for line in log.splitlines() if line.startswith("Running stage")]
            self.sekisho("pr", "results", pr, cwd=self.ci)
            self.git("fetch", "--quiet", "origin", cwd=self.ci)
            self.git("reset", "--quiet", f"origin/{branch}", cwd=self.ci)
            self.s.run("dvc", "push", "--remote", "storage", cwd=self.ci)
            notes.append(f"stages run: {', '.join(ran) or 'none, all from the cache'}")
        with self.s.step(f"The backtest report is posted on PR {pr}") as notes:
            self.sekisho("pr", "report", pr, cwd=self.ci)
            gate = json.loads((self.ci / "metrics" / "gate.json").read_text())
            agent = json.loads((self.ci / "metrics" / "backtest.json").read_text())["agent"]
            failed = [rule["rule"] for rule in gate["rules"] if not rule["passed"]]
            verdict = "passed" if gate["passed"] else f"failed: {', '.join(failed)}"
            notes.append(
                f"gate {verdict}; net Sharpe {agent['sharpe']:.2f} "
                f"[{agent['sharpe_low']:.2f}, {agent['sharpe_high']:.2f}], "
                f"max drawdown {agent['max_drawdown']:.1%}"
            )
            kept = self._report(pr)  # the next pull request's run replaces the checkout's own
            kept.parent.mkdir(exist_ok=True)
            shutil.copy(self.ci / "build" / "report" / "report.html", kept)
            notes.append(f"report: {self.s.shown(kept)}")

    def _report(self, pr: str) -> Path:
        return self.s.folder / "reports" / f"pull-{pr}.html"

    # 5
    def approve(self) -> None:
        with self.s.step(
            "Approval by comment: a wrong SHA and the author's own approval are refused"
        ) as notes:
            head = json.loads(self.sekisho("pr", "show", self.pr, "--json", cwd=self.ci))["head_sha"]
            attempts = [
                ("reviewer", f"/approve {head[:-1]}{'0' if head[-1] != '0' else '1'}", 1),
                ("engineer", f"/approve {head}", 1),
                ("outsider", f"/approve {head}", 1),
                ("reviewer", f"/approve {head}", 0),
            ]
            for actor, text, code in attempts:
                made = self.sekisho(
                    "pr", "comment", self.pr, "--body", text, "--json", cwd=self.ci, actor=actor
                )
                answer = self.sekisho(
                    "pr", "command", self.pr, str(json.loads(made)["comment"]), cwd=self.ci, expect=(code,)
                )
                line = answer.strip().splitlines()[0]
                notes.append(f"{actor:>9}: {text[:17]}…  → {_shortened(line, 110)}")

    # 6
    def merge_and_release(self) -> None:
        with self.s.step("Merge; the release is exported, signed, attested and verified") as notes:
            self.sekisho("pr", "merge", self.pr, cwd=self.ci)
            self.git("fetch", "--quiet", "origin", cwd=self.ci)
            self.git("switch", "--quiet", "--force-create", "main", "origin/main", cwd=self.ci)
            self.s.run("dvc", "checkout", cwd=self.ci)
            approval = self.s.folder / "approval.json"
            self.sekisho("pr", "approval", self.pr, "--out", approval, cwd=self.ci)
            self.release = Path(json.loads(self.sekisho("export", "--json", cwd=self.ci))["folder"])
            self.release_name = self.release.relative_to("releases").as_posix()
            self.sekisho("sign", self.release, "--approval", approval, "--authority", "local", cwd=self.ci)
            verified = self.sekisho("verify", self.release, "--environment", "local", cwd=self.ci)
            notes.append(verified.strip().splitlines()[-1])
            refusal = self.sekisho(
                "verify", self.release, "--environment", "production", cwd=self.ci, expect=(1,)
            )
            notes.append(f"for production {refusal.strip().splitlines()[0].removeprefix('sekisho: ')}")
            self.s.run("dvc", "push", "--quiet", "--remote", "storage", cwd=self.ci)
            self.git("add", "releases", cwd=self.ci)
            self.git("commit", "--quiet", "-m", f"Release {self.release_name}", cwd=self.ci)
        with self.s.step("Promotion: one line under deploy/policy/") as notes:
            self.sekisho("promote", self.release, "--environment", "local", cwd=self.ci)
            self.git("add", "deploy", "releases", cwd=self.ci)
            self.git("commit", "--quiet", "-m", f"Promote {self.release_name} to local", cwd=self.ci)
            self.git("push", "--quiet", "origin", "main", cwd=self.ci)
            notes.append((self.ci / "deploy" / "policy" / "local" / "release.env").read_text().strip())

    # 7
    def fetch_release(self) -> None:
        with self.s.step("The server's side fetches the release"):
            self.server_side = self.s.clone("server")
            content = f"{self.release}/content.dvc"
            self.s.run("dvc", "pull", "--quiet", "--remote", "storage", content, cwd=self.server_side)

    def refuse_tampered(self) -> None:
        with self.s.step("MLServer starts with it; a tampered copy is refused") as notes:
            tampered = self.s.folder / "tampered" / "releases" / self.release_name
            shutil.copytree(self.server_side / self.release, tampered)
            model = tampered / "content" / "model.onnx"
            model.chmod(0o644)
            content = bytearray(model.read_bytes())
            content[len(content) // 2] ^= 1
            model.write_bytes(content)
            refusal = self.sekisho(
                "serve", "--release", tampered, "--environment", "local",
                "--predictions", tampered / "predictions", "--port", "0", cwd=self.server_side, expect=(1,),
            )  # fmt: skip
            line = next(line for line in refusal.splitlines() if "refused" in line)
            notes.append(_shortened(line.replace(f"{REPO}/", ""), 150))

    @contextmanager
    def serving(self) -> Iterator[str]:
        """The policy server on free loopback ports; stopped, and its log flushed, at the end."""
        port, grpc_port, metrics_port = _free_ports(3)
        words = [
            "sekisho", "serve", "--release", str(self.release), "--environment", "local",
            "--predictions", str(self.predictions), "--replay-clock",
            "--port", port, "--grpc-port", grpc_port, "--metrics-port", metrics_port,
        ]  # fmt: skip
        with self.server_log.open("w") as log:
            server = subprocess.Popen(
                words,
                cwd=self.server_side,
                env=self.s.env,
                stdout=log,
                stderr=log,
                preexec_fn=end_with_parent,
            )
            try:
                self.server = server
                yield f"http://127.0.0.1:{port}"
            finally:
                server.terminate()
                try:
                    server.wait(timeout=30)
                except subprocess.TimeoutExpired:
                    server.kill()

    def wait_until_ready(self, url: str) -> None:
        deadline = time.monotonic() + 60
        while not _ready(f"{url}/v2/models/{MODEL}/ready"):
            if self.server.poll() is not None or time.monotonic() > deadline:
                raise StepFailed(f"the server did not get ready; see {self.s.shown(self.server_log)}")
            time.sleep(0.1)

    # 8
    @contextmanager
    def market_ahead(self) -> Iterator[None]:
        """The sessions to be replayed are made while the pull request takes its way."""
        past = sample_sessions()
        ahead = Calendar(CALENDAR, BAR).next_sessions(past[-1], CALM_SESSIONS + CHANGED_SESSIONS)
        self.days = [str(day) for day in ahead]
        self.change_at = self.days[CALM_SESSIONS]
        words = [
            "sekisho", "data", "synthetic", "--out", str(self.market), "--first", str(past[0]),
            "--keep-from", self.days[0], "--sessions", str(len(past) + len(ahead)),
            "--seed", str(SAMPLE_SEED), "--change-at", self.change_at, *CHANGE,
        ]  # fmt: skip
        with self.market_log.open("w") as log:
            self.making = subprocess.Popen(
                words, cwd=self.s.folder, env=self.s.env, stdout=log, stderr=log, preexec_fn=end_with_parent
            )
        try:
            yield
        finally:
            self.making.kill()  # nothing, where it has ended

    def serve_and_replay(self) -> None:
        days = self.days
        calm_last, self.last = days[CALM_SESSIONS - 1], days[-1]
        with self.serving() as url:
            self.refuse_tampered()
            title = "A live market was made meanwhile: calm sessions, then volatility and correlations change"
            with self.s.step(title) as notes:
                if self.making.wait():
                    raise StepFailed(f"the market was not made; see {self.s.shown(self.market_log)}")
                self.wait_until_ready(url)
                notes.append(f"{days[0]} to {self.last}; changed from {self.change_at}; served at {url}")
            with self.s.step("The market is replayed through it: calm sessions, then changed ones") as notes:
                notes.extend(self._replay(url, days[WARM_UP], self.last))
            with self.s.step(
                "The scheduled check, after the calm sessions and after the changed ones"
            ) as notes:
                notes.append(f"{calm_last}: " + self._check("calm", calm_last, expect=0))
                notes.append(f"{self.last}: " + self._check("changed", self.last, expect=1))

    def _replay(self, url: str, first: str, last: str) -> list[str]:
        out = self.sekisho(
            "replay", "--bars", self.market, "--release", self.release, "--url", url,
            "--first", first, "--last", last, cwd=self.server_side,
        )  # fmt: skip
        time.sleep(0.5)  # with the start of the next command, more than serving.log_interval: all is on disk
        return out.strip().splitlines()[-1:]

    def _check(self, name: str, day: str, expect: int) -> str:
        self.verdict = self.s.folder / "verdicts" / name / "verdict.json"
        out = self.sekisho(
            "drift", "check", "--predictions", self.predictions, "--release", self.release,
            "--bars", self.market, "--as-of", day, "--out", self.verdict,
            cwd=self.server_side, expect=(expect,),
        )  # fmt: skip
        return out.strip().splitlines()[0]

    # 9
    def retrain(self) -> None:
        with self.s.step("The alarm opens the retrain pull request with its evidence") as notes:
            made = self.sekisho(
                "retrain", "--verdict", self.verdict, "--bars", self.market, "--json", cwd=self.ci
            )
            self.retrain_pr = json.loads(made)
            notes.append(f"PR {self.retrain_pr['number']} on {self.retrain_pr['branch']}")
        self.reproduce(self.retrain_pr["branch"], str(self.retrain_pr["number"]))

    # 10
    def trace(self) -> None:
        with self.s.step(
            "One served prediction, traced back to commit, data, parameters and people"
        ) as notes:
            prediction = f"{self.last}-40"
            out = self.sekisho(
                "audit", "trace", prediction, "--predictions", self.predictions, cwd=self.server_side
            )
            notes.extend(out.strip().splitlines())
            self.git("fetch", "--quiet", "origin", cwd=self.server_side)  # the retrain request challenges
            self.sekisho(
                "pages", "--environment", "local", "--verdicts", self.verdict.parent.parent,
                "--report", self._report(self.pr), "--out", self.pages, cwd=self.server_side,
            )  # fmt: skip

    def summary(self) -> None:
        shown = self.s.shown
        console.print(f"\n[bold]Done in {time.monotonic() - self.s.started:.0f} s.[/bold] Look at:")
        for what, path in (
            ("pull requests", self.forge / "pulls"),
            ("model page", self.pages / "model.html"),
            ("KPIs and cost", self.pages / "kpi.html"),
            ("audit page", self.pages / "audit.html"),
            ("last verdict", self.pages / "verdict.html"),
            ("backtest report", self.pages / "report.html"),  # of what is served
            ("the retrain's", self._report(str(self.retrain_pr["number"]))),
            ("logs of every step", self.s.folder / "logs"),
        ):
            console.print(f"  {what:<19} {shown(path)}")
        console.print(
            "Try next: run `make demo` again (everything unchanged comes from DVC's cache), `make demo-real`,"
        )
        console.print("or change params.yaml and run `make repro`.")


def _shortened(line: str, width: int) -> str:
    """Whole words of a line; that something was left out is seen."""
    return textwrap.shorten(line, width, placeholder=" …")


def _free_ports(count: int) -> list[str]:
    """Ports that nobody listens on now."""
    with ExitStack() as open_sockets:
        sockets = [open_sockets.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [str(one.getsockname()[1]) for one in sockets]


def _ready(url: str) -> bool:
    try:
        return httpx.get(url, timeout=1).status_code == 200
    except httpx.TransportError:
        return False


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--fast", action="store_true", help="less training, for CI")
    parser.add_argument("--picture", type=Path, help="draw what is shown into this SVG, for the README")
    chosen = parser.parse_args()
    if chosen.picture:
        console.record, console.width = True, PICTURE_WIDTH
    code = tell(lambda: the_loop(chosen.fast))
    if chosen.picture:
        chosen.picture.write_text(picture("make demo FAST=1"), encoding="utf-8")
    return code


def the_loop(fast: bool) -> None:
    demo = Demo(Scratch(REPO / "build" / "demo"), fast)
    demo.copy()
    with demo.market_ahead():
        demo.open_pull_request()
        demo.reproduce("gentler-risk", demo.pr)
        demo.approve()
        demo.merge_and_release()
        demo.fetch_release()
        demo.serve_and_replay()
    demo.retrain()
    demo.trace()
    demo.summary()


if __name__ == "__main__":
    sys.exit(main())
