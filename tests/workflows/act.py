"""Run a workflow with act in host mode and say what became of every job and step.

act executes the file as GitHub's runner would: expressions, conditions, outputs, reusable workflows. It does
not evaluate triggers' filters, permissions, concurrency and environments, which test_workflows.py reads.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

VERSION = "v0.2.89"
ROOT = Path(__file__).parents[2]
ACTIONS = Path(__file__).parent / "actions"
# Local folder that stands for each action; the commit is the one that the workflow pins.
SUBSTITUTES = {
    "actions/checkout": "checkout",
    "actions/create-github-app-token": "app-token",
    "actions/download-artifact": "download-artifact",
    "actions/setup-python": "setup-python",
    "actions/upload-artifact": "upload-artifact",
    "aws-actions/configure-aws-credentials": "aws-credentials",
    "hashicorp/setup-terraform": "setup-terraform",
    "iterative/setup-cml": "setup-cml",
    "sigstore/cosign-installer": "cosign-installer",
}
LIMIT = 600  # seconds for one workflow


@cache
def act_program() -> Path:
    """act, built once into ``build/``; skips where Go or its module proxy is missing."""
    program = ROOT / "build" / "bin" / f"act-{VERSION}"
    if not program.exists():
        if shutil.which("go") is None:
            pytest.skip("act is built with Go, which is not installed")
        target = program.parent / "fresh"
        words = ["go", "install", f"github.com/nektos/act@{VERSION}"]
        done = subprocess.run(words, env=os.environ | {"GOBIN": str(target)}, capture_output=True, text=True)
        if re.search(r"dial tcp|no such host|i/o timeout", done.stderr):
            pytest.skip("act is not in Go's cache and the module proxy cannot be reached")
        assert done.returncode == 0, done.stderr
        (target / "act").replace(program)
    return program


@dataclass
class Ran:
    """What a run did. ``jobs``: id -> "success", "failure" or "skipped"; ``steps``: by job, in order.

    A job of a matrix runs ``times`` it has members, and failed if one of them did.
    """

    jobs: dict[str, str] = field(default_factory=dict)
    times: dict[str, int] = field(default_factory=dict)
    steps: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    log: str = ""
    seconds: float = 0.0

    def result(self, job: str, part: str) -> str:
        """How the step of a job ended whose name contains ``part``."""
        found = [result for name, result in self.steps.get(job, []) if part in name]
        wanted = self.times.get(job, 1)
        assert len(found) == wanted, f"{part!r} is {len(found)} steps of {job}: {self.steps.get(job)}"
        return next((result for result in found if result != "success"), "success")

    def output(self, job: str) -> str:
        """What the steps of a job printed."""
        prefix = f"{job}| "
        lines = self.log.splitlines()
        return "\n".join(line.removeprefix(prefix) for line in lines if line.startswith(prefix))


def run_act(
    checkout: Path,
    workflow: str,
    event: str,
    payload: dict[str, Any],
    work: Path,
    env: dict[str, str],
    programs: Path,
) -> Ran:
    """Run one workflow of ``checkout`` for an event; ``env``: what runner and repository provide.

    ``programs``: what the runner's image has beyond this machine.
    """
    work.mkdir(parents=True, exist_ok=True)
    file = checkout / ".github/workflows" / workflow
    (work / "event.json").write_text(json.dumps(payload))
    words = [str(act_program()), event, "--workflows", str(file)]
    words += ["--eventpath", str(work / "event.json"), "--json", "--no-skip-checkout", "--no-cache-server"]
    words += ["--action-cache-path", str(work / "actions"), "--action-offline-mode", "--concurrent-jobs", "1"]
    words += ["--actor", payload.get("sender", {}).get("login", "engineer")]
    words += ["-P", "ubuntu-24.04=-self-hosted", "-P", "sekisho-gpu=-self-hosted"]
    texts = [path.read_text() for path in (checkout / ".github/workflows").glob("*.yml")]
    for action, pin in sorted(set(re.findall(r"uses: ([\w./-]+)@([0-9a-f]{40})", "\n".join(texts)))):
        words += ["--local-repository", f"{action}@{pin}={ACTIONS / SUBSTITUTES[action]}"]
    for name, value in env.items():
        kind, _, rest = name.partition(":")
        words += [f"--{kind}", f"{rest}={value}"] if rest else ["--env", f"{name}={value}"]
    clean = {
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(work),
        "LANG": "C.UTF-8",
        "GIT_CONFIG_GLOBAL": os.devnull,
    }
    begun = time.monotonic()
    with (work / "act.jsonl").open("w+") as log:  # there to be read while it runs
        done = subprocess.run(
            words, cwd=checkout, env=clean, stdout=log, stderr=subprocess.PIPE, text=True, timeout=LIMIT
        )
        log.seek(0)
        output = log.read()
    ran = Ran(seconds=time.monotonic() - begun)
    ran.jobs = dict.fromkeys(yaml.safe_load(file.read_text())["jobs"], "skipped")
    _read(output, ran)
    assert done.returncode == 0 or "failure" in ran.jobs.values(), f"act: {output[-3000:]}{done.stderr}"
    ran.log += done.stderr
    return ran


def _read(output: str, ran: Ran) -> None:
    lines = []
    for line in output.splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            lines.append(line)
            continue
        job = entry.get("jobID", "")
        text = str(entry.get("msg", "")).rstrip("\n")
        if "jobResult" in entry:
            ran.times[job] = ran.times.get(job, 0) + 1
            if ran.jobs.get(job) != "failure":
                ran.jobs[job] = entry["jobResult"]
        if "stepResult" in entry and entry.get("stage") == "Main" and len(entry.get("stepID", [])) == 1:
            ran.steps.setdefault(job, []).append((entry["step"], entry["stepResult"]))
        lines += [f"{job}| {part}" for part in text.split("\n")]
    ran.log = "\n".join(lines)
