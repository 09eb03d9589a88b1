"""A scratch copy of the repository at a stand-in of GitHub, with S3 beside it, whose workflows act runs."""

from __future__ import annotations

import copy
import json
import logging
import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import boto3
import httpx
from moto.server import ThreadedMotoServer
from ruamel.yaml import YAML
from tests.npm import npm_packages
from tests.workflows.act import ACTIONS, ROOT, Ran, run_act
from tests.workflows.description import HERE, Description
from tests.workflows.stand_in import ACTIONS as ACTIONS_BOT
from tests.workflows.stand_in import BOT, REPOSITORY, StandIn, token

from sekisho.calendar import Calendar
from sekisho.data.contract import COLUMNS
from sekisho.data.synthetic import BAR, CALENDAR, SAMPLE_SEED, sample_sessions

BUCKET = "sekisho-dvc"
SMALL = {  # a pipeline that ends in half a minute, and a gate that it passes
    "split": {"folds": 1},
    "ppo": {"samples": 65536, "environments": 256},
    "backtest": {"bootstrap_samples": 500},
    "gate": {
        "min_sharpe_lower": -100.0, "min_sharpe_over_champion": -100.0, "min_deflated_sharpe": 0.0,
        "max_pbo": 1.0, "max_drawdown": 1.0, "max_turnover": 1000.0, "min_capacity": 0.0,
    },
    "forge": {"rerun_wait": 0.0, "backoff": 0.0},
}  # fmt: skip
CHECKERS = (
    "go",
    "mypy",
    "pytest",
    "ruff",
    "zizmor",
)  # `make check` and `make test` run them on the checkout itself
UV = """\
#!/bin/sh
if [ "$1" = venv ]; then for folder in "$@"; do :; done; mkdir -p "$folder"; exit; fi
for word in "$@"; do file=$word; done # the last word is the lock that is compiled
echo "# compiled by: uv $*" >> "$file"
"""
SIGN_HERE = """\
#!/bin/bash
# Fulcio certifies only what runs at GitHub. Here the local authority signs and the policy `local` judges.
words=()
for word in "$@"; do
  case "$1:$word" in pr:* | drift:*) ;; *:staging | *:production) word=local ;; esac
  words+=("$word")
done
case "$1" in sign | promote | revoke) words+=(--authority local --authority-folder "$ACT_AUTHORITY") ;; esac
if [ "$1 $2" = "drift check" ]; then words+=(--as-of "$ACT_TODAY"); fi # the sample's market lies in the past
exec {sekisho} "${words[@]}"
"""


@cache
def example(event: str, action: str | None = None) -> dict[str, Any]:
    """A payload as GitHub sent it, from npm's ``@octokit/webhooks-examples``."""
    file = npm_packages(HERE) / "@octokit/webhooks-examples/api.github.com/index.json"
    known = next(hook for hook in json.loads(file.read_text()) if hook["name"] == event)
    return next(e for e in known["examples"] if action is None or e.get("action") == action)


# Programs of GitHub's own image that need an engine or a registry; each fails on words that it does not know.
PROGRAMS = {
    "buildah": """\
#!/bin/bash
set -eu
case "$1 $2" in
  "build --file") test -f "$3" && test "$4 $6 $8" = "--ignorefile --timestamp --tag" && test -f "$5" ;;
  "login --username") test "$4 $5" = "--password-stdin ghcr.io" && grep -q '^token\\.' ;;
  "push --digestfile") echo -n "sha256:$(echo "$4" | sha256sum | cut -c1-64)" > "$3" ;;
  *) echo "buildah: unknown: $*" && exit 1 ;;
esac
echo "buildah was called: $*"
""",
    "cosign": """\
#!/bin/bash
set -eu
case "$1" in
  login) grep -q '^token\\.' ;;
  sign) [[ "$2" = --yes && "$3" =~ @sha256:[0-9a-f]{64}$ ]] ;;
  verify)
    test "$2 $4" = "--certificate-identity --certificate-oidc-issuer"
    [[ "$6" =~ @sha256:[0-9a-f]{64}$ ]]
    ;;
  *) echo "cosign: unknown: $*" && exit 1 ;;
esac
echo "cosign was called: $*"
""",
    "kustomize": """\
#!/bin/bash
set -eu
test "$1 $2 $3" = "edit set image"
sed -i "s|^images:.*|images: [{name: ${4%%=*}, newName: ${4#*=}}]|" kustomization.yaml
""",
}


class World:
    """The origin, the forge and S3, and people who push, comment and merge."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.origin, self.clone = folder, folder / "origin.git", folder / "clone"
        self.runs, self.today = 0, ""
        self.started: list[tuple[str, Ran]] = []
        _copy_sources(self.clone)
        self.authority = folder / "authority"
        self.run_git("init", "--quiet", "--initial-branch=main")
        self.commit("engineer", "The repository")
        self._prepare()
        self.commit("engineer", "Our ids, our trust, small figures")
        self.run_git("init", "--quiet", "--bare", "--initial-branch=main", str(self.origin), cwd=folder)
        self.run_git("config", "uploadpack.allowAnySHA1InWant", "true", cwd=self.origin)
        self.run_git("remote", "add", "origin", str(self.origin))
        self.run_git("push", "--quiet", "origin", "main")
        self.github = StandIn(self.origin, Description.load())
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self.moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        self.moto.start()
        host, port = self.moto.get_host_and_port()
        self.s3_url = f"http://{host}:{port}"
        httpx.post(f"{self.s3_url}/moto-api/reset").raise_for_status()  # what it holds is the process's
        self.s3 = boto3.client(
            "s3",
            endpoint_url=self.s3_url,
            region_name="us-east-1",
            aws_access_key_id="test",
            aws_secret_access_key="test",
        )
        self.s3.create_bucket(Bucket=BUCKET)
        self.upload(self.clone / "samples", "storage")

    def close(self) -> None:
        self.github.close()
        self.moto.stop()

    def _prepare(self) -> None:
        """What a firm does once: its ids, its trust; and figures small enough for a test."""
        yaml = YAML()
        params = self.clone / "params.yaml"
        values = yaml.load(params.read_text())
        for section, keys in SMALL.items():
            values[section].update(keys)
        with params.open("w") as file:
            yaml.dump(values, file)
        (self.clone / "dvc.lock").write_text("schema: '2.0'\nstages: {}\n")  # no result is in the remote yet
        mapping = {"columns": {name: name for name in COLUMNS}, "time_zone": "UTC", "time_is": "close"}
        with (self.clone / "bars-mapping.yaml").open("w") as file:
            yaml.dump(mapping | {"partition": "session"}, file)
        policy = self.clone / "trust/policy.yaml"
        text = policy.read_text()
        for name in ("repository_id", "owner_id"):
            text = text.replace(f"{name}: 0", f"{name}: 1")
        policy.write_text(text)
        words = ["sekisho", "sign", "--init-local", "--authority-folder", str(self.authority)]
        self.run(*words, cwd=self.clone)

    # ---- people

    def run(self, *words: str, cwd: Path | None = None, more: dict[str, str] | None = None) -> str:
        tools = Path(sys.executable).parent
        env = (more or {}) | {
            "PATH": f"{tools}:{os.environ['PATH']}", "HOME": str(self.folder), "PYTHONPATH": "src",
            "OMP_NUM_THREADS": "1", "GIT_CONFIG_GLOBAL": os.devnull, "SEKISHO_ACTOR": "engineer",
        }  # fmt: skip
        done = subprocess.run(words, cwd=cwd or self.clone, env=env, capture_output=True, text=True)
        assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
        return done.stdout.strip()

    def run_git(self, *words: str, cwd: Path | None = None) -> str:
        identity = ("-c", "user.name=engineer", "-c", "user.email=engineer@example.invalid")
        return self.run("git", *identity, *words, cwd=cwd)

    def commit(self, who: str, message: str) -> str:
        self.run_git("add", "--all")
        self.run_git("commit", "--quiet", "--message", message)
        return self.run_git("rev-parse", "HEAD")

    def branch(self, name: str, path: str, old: str, new: str) -> str:
        """Push a branch from main with one text replaced; its head."""
        self.run_git("fetch", "--quiet", "origin")
        self.run_git("switch", "--quiet", "--force-create", name, "origin/main")
        text = (self.clone / path).read_text()
        assert old in text, f"{path} does not hold {old!r}"
        (self.clone / path).write_text(text.replace(old, new, 1))
        head = self.commit("engineer", f"Change {path}")
        self.run_git("push", "--quiet", "--force", "origin", name)
        return head

    def head(self, branch: str = "main") -> str:
        return self.github.git("rev-parse", f"refs/heads/{branch}")

    def upload(self, folder: Path, prefix: str) -> None:
        for path in folder.rglob("*"):
            if path.is_file():
                self.s3.upload_file(str(path), BUCKET, f"{prefix}/{path.relative_to(folder).as_posix()}")

    def bars_after_the_sample(self, sessions: int) -> Path:
        """A folder with the sessions of the sample's market that follow the sample."""
        days, out = sample_sessions(), self.folder / f"bars-{sessions}"
        keep = Calendar(CALENDAR, BAR).next_sessions(days[-1], 1)[0]
        words = ["--first", str(days[0]), "--sessions", str(len(days) + sessions), "--seed", str(SAMPLE_SEED)]
        self.run("sekisho", "data", "synthetic", "--out", str(out), *words, "--keep-from", str(keep))
        return out

    def pulled(self, release: str) -> Path:
        """The folder of a release of main with its content, as a server would fetch it."""
        target = self.folder / f"server-{self.runs}"
        self.run_git("clone", "--quiet", str(self.origin), str(target), cwd=self.folder)
        storage = {
            "AWS_ENDPOINT_URL": self.s3_url, "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1", "DVC_NO_ANALYTICS": "1",
        }  # fmt: skip
        words = ("dvc", "pull", "--quiet", "--remote", "storage", f"releases/{release}/content.dvc")
        self.run(*words, cwd=target, more=storage)
        return target / "releases" / release

    def keys(self, prefix: str) -> list[str]:
        pages = self.s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
        return [entry["Key"] for page in pages for entry in page.get("Contents", [])]

    # ---- events

    def pull_request(self, number: int, action: str, sender: str = "engineer") -> dict[str, Any]:
        event = copy.deepcopy(example("pull_request", action))
        pull = copy.deepcopy(self.github.pull(number))  # tests change what an event says, not the forge
        event["pull_request"] |= {k: v for k, v in pull.items() if k in event["pull_request"]}
        return self._here(event | {"number": number}, sender)

    def issue_comment(self, number: int, comment: dict[str, Any]) -> dict[str, Any]:
        event = copy.deepcopy(example("issue_comment", "created"))
        pull = self.github.pull(number)
        event["issue"] |= {"number": number, "title": pull["title"], "pull_request": {"url": pull["url"]}}
        event["comment"] |= copy.deepcopy(comment)
        return self._here(event, comment["user"]["login"])

    def push(self, sha: str) -> dict[str, Any]:
        event = copy.deepcopy(example("push"))
        before = self.github.git("rev-parse", f"{sha}^1")
        return self._here(event | {"ref": "refs/heads/main", "before": before, "after": sha}, BOT)

    def dispatch(self, started: dict[str, Any]) -> dict[str, Any]:
        event = copy.deepcopy(example("workflow_dispatch"))
        workflow = f".github/workflows/{started['workflow']}"
        return self._here(
            event | {"inputs": started["inputs"], "ref": "refs/heads/main", "workflow": workflow}, BOT
        )

    def schedule(self, cron: str) -> dict[str, Any]:
        return {"schedule": cron, "repository": {"full_name": REPOSITORY}}

    def workflow_run(
        self, ran: Ran, action: str, workflow: str, event: str, number: int | None = None, **more: Any
    ) -> dict[str, Any]:
        """The end (or the request) of the run that was made last."""
        made = copy.deepcopy(example("workflow_run", action))
        failed = "failure" in ran.jobs.values()
        run = made["workflow_run"]
        run |= {
            "id": self.runs, "name": workflow, "event": event,
            "conclusion": "failure" if failed else "success",
            "path": f".github/workflows/{workflow}.yml", "display_title": workflow, "run_attempt": 1,
        }  # fmt: skip
        run["head_repository"]["full_name"] = REPOSITORY
        run["pull_requests"] = []
        if number is not None:
            pull = self.github.pull(number)
            run |= {"head_sha": pull["head"]["sha"], "head_branch": pull["head"]["ref"]}
            run["pull_requests"] = [{"number": number, "head": {"sha": pull["head"]["sha"]}}]
        run |= more
        return self._here(made, BOT)

    def _here(self, event: dict[str, Any], sender: str) -> dict[str, Any]:
        event.setdefault("repository", {})
        event["repository"] |= {"full_name": REPOSITORY, "default_branch": "main"}
        event.setdefault("sender", {})
        event["sender"]["login"] = sender
        return event

    # ---- workflows

    def act(
        self,
        workflow: str,
        event: str,
        payload: dict[str, Any],
        *,
        sha: str | None = None,
        ref: str = "refs/heads/main",
        sign_here: bool = False,
        env: dict[str, str] | None = None,
    ) -> Ran:
        """Run a workflow of the commit ``sha`` (main's, unless given)."""
        self.runs += 1
        sha = sha or self.head()
        work = self.folder / f"run-{self.runs}"
        checkout = work / "workflows"
        self.run_git("clone", "--quiet", "--no-checkout", str(self.origin), str(checkout), cwd=self.folder)
        self.run_git("checkout", "--quiet", "--detach", sha, cwd=checkout)
        permissions = {"contents": "read", "actions": "read", "pull-requests": "read", "metadata": "read"}
        given = {
            "GITHUB_API_URL": self.github.url, "GITHUB_REPOSITORY": REPOSITORY, "GITHUB_SHA": sha,
            "GITHUB_REF": ref, "GITHUB_RUN_ID": str(self.runs), "GITHUB_SERVER_URL": "https://github.com",
            "PYTHONPATH": "src", "OMP_NUM_THREADS": "1", "DVC_NO_ANALYTICS": "1",
            "ACT_ORIGIN": str(self.origin), "ACT_ACTIONS": str(ACTIONS), "ACT_S3": self.s3_url,
            "ACT_ARTIFACTS": str(self.folder / "artifacts"), "ACT_BIN": str(self._tools(sign_here)),
            "ACT_AUTHORITY": str(self.authority), "ACT_TODAY": self.today,
            "var:AWS_REGION": "us-east-1", "var:SEKISHO_APP_ID": "7", "var:SEKISHO_BOT": BOT,
            "var:RULES_APP_ID": "7", "secret:RULES_APP_KEY": "the-private-key-of-the-app",
            "var:PREDICTIONS": f"s3://{BUCKET}/predictions", "var:VERDICTS": f"s3://{BUCKET}/verdicts",
            "var:STAGING_PREDICTIONS": f"s3://{BUCKET}/staging-predictions", "var:LIVE_BARS": f"s3://{BUCKET}/live-bars",
            "var:BARS_SOURCE": f"s3://{BUCKET}/source/**/*.parquet", "var:BARS_MAPPING": "bars-mapping.yaml",
            "secret:GITHUB_TOKEN": token(ACTIONS_BOT, permissions),
            "secret:SEKISHO_APP_KEY": "the-private-key-of-the-app",
            "secret:NOTIFY_WEBHOOK": f"{self.github.url}/chat",
        }  # fmt: skip
        for role in (
            "PULL_REQUEST",
            "RELEASE",
            "NIGHTLY",
            "DRIFT",
            "RETRAIN",
            "PLAN_STAGING",
            "PLAN_PRODUCTION",
            "APPLY",
        ):
            given[f"var:AWS_ROLE_{role}"] = f"arn:aws:iam::123456789012:role/{role.lower()}"
        ran = run_act(checkout, workflow, event, payload, work / "act", given | (env or {}), self._programs())
        self.started.append((workflow, ran))
        (work / "log.txt").write_text(ran.log)  # for whoever looks into a failure
        assert not self.github.faults, self.github.faults
        return ran

    def _programs(self) -> Path:
        folder = self.folder / "programs"
        if not folder.exists():
            folder.mkdir()
            for name, text in PROGRAMS.items():
                _script(folder / name, text)
        return folder

    def _tools(self, sign_here: bool) -> Path:
        """The commands of this environment, as ``.venv/bin`` of every checkout."""
        folder = self.folder / ("tools-signing" if sign_here else "tools")
        if not folder.exists():
            folder.mkdir()
            real = Path(sys.executable).parent
            for path in real.iterdir():
                if not path.name.startswith(("python", "activate", "sekisho", "dvc", "uv", *CHECKERS)):
                    (folder / path.name).symlink_to(path)
            for name in CHECKERS:
                _script(folder / name, f'#!/bin/sh\necho "{name} was called: $*"\n')
            sekisho = SIGN_HERE.replace("{sekisho}", str(real / "sekisho"))
            # act gives steps a terminal, GitHub's runners none: DVC would wait for an answer to its question
            dvc = f'#!/bin/bash\nset -o pipefail\n{real / "dvc"} "$@" < /dev/null 2>&1 | cat\n'
            _script(folder / "dvc", dvc)
            _script(folder / "uv", UV)
            _script(folder / "python", f'#!/bin/sh\nexec {real / "python"} "$@"\n')
            _script(
                folder / "sekisho", sekisho if sign_here else f'#!/bin/sh\nexec {real / "sekisho"} "$@"\n'
            )
        return folder


def _script(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


def _copy_sources(target: Path) -> None:
    """The working tree's files, committed or about to be."""
    words = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    names = subprocess.run(words, cwd=ROOT, check=True, capture_output=True).stdout.decode().split("\0")
    for name in filter(None, names):
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, target / name)
