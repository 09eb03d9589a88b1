"""Plans every root of ``terraform/`` without an account, for checks that need no credential.

    python terraform/offline.py [--out build/terraform/plans]

writes one ``<root>.json`` a root. Names and account are given, so their policy documents are real. Terraform
runs in a copy of the tree, so that no state or lock file of a check lies beside the code. The provider comes
from a mirror on this machine (``terraform providers mirror`` makes one); nothing here downloads.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

TERRAFORM = Path(__file__).parent
BUILD = TERRAFORM.parent / "build/terraform"
ENVIRONMENTS = ("staging", "production")
ROOTS = [f"envs/{env}/{stack}" for env in ENVIRONMENTS for stack in ("data", "platform")]
ACCOUNT = "123456789012"
PEOPLE = {
    "administrators": [f"arn:aws:iam::{ACCOUNT}:role/administrators"],
    "page": ["page@sekisho.test"],
    "notice": ["notice@sekisho.test"],
}
MIRRORS = [
    Path(os.environ.get("SEKISHO_TERRAFORM_MIRROR", BUILD / "mirror")),
    Path.home() / ".terraform.d/plugins",
    Path("/usr/local/share/terraform/plugins"),
    *sorted(Path("/opt").glob("*")),
]
PROVIDER = """provider "aws" {
  access_key                  = "test"
  secret_key                  = "test"
  s3_use_path_style           = true
  skip_credentials_validation = true
  skip_metadata_api_check     = true
  skip_region_validation      = true
  max_retries                 = 2
"""
NO_ACCOUNT = "  skip_requesting_account_id = true\n  allowed_account_ids = null\n"


@cache
def mirror() -> Path | None:
    """The first folder that holds the provider, packed or unpacked."""
    for path in MIRRORS:
        if any(path.glob("*/hashicorp/aws/5.*")) or any(path.glob("*/hashicorp/aws/*_5.*.zip")):
            return path
    return None


def missing() -> str | None:
    """Why Terraform cannot run here, or None."""
    if shutil.which("terraform") is None:
        return "terraform is not installed"
    if mirror() is None:
        return (
            "no mirror of the provider hashicorp/aws 5.x: make one with `terraform -chdir=terraform/bootstrap"
            " providers mirror ../../build/terraform/mirror`, or name one in SEKISHO_TERRAFORM_MIRROR"
        )
    return None


@dataclass
class Run:
    """What one call of Terraform answered: exit code and the two streams together."""

    code: int
    output: str

    @property
    def text(self) -> str:
        """The output without Terraform's frame and line breaks, to look for sentences in."""
        return " ".join(re.sub(r"[│╷╵]", " ", self.output).split())


@dataclass
class Workspace:
    """A copy of ``terraform/``. ``endpoint`` answers in AWS's place; without it, only plans."""

    path: Path
    endpoint: str | None = None
    env: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        shutil.copytree(
            TERRAFORM,
            self.path / "terraform",
            ignore=shutil.ignore_patterns(".terraform*", "*.tfstate*", "__pycache__"),
            dirs_exist_ok=True,
        )
        rc = self.path / "terraformrc"
        rc.write_text(f'provider_installation {{\n  filesystem_mirror {{ path = "{mirror()}" }}\n}}\n')
        self.env = {key: value for key, value in os.environ.items() if not key.startswith(("AWS_", "TF_"))}
        self.env |= {
            "TF_CLI_CONFIG_FILE": str(rc),
            "TF_IN_AUTOMATION": "1",
            "TF_INPUT": "0",
            "CHECKPOINT_DISABLE": "1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "TF_VAR_administrator_arn": PEOPLE["administrators"][0],
            "TF_VAR_auditor_arn": f"arn:aws:iam::{ACCOUNT}:role/auditors",
        }
        if self.endpoint:
            self.env["AWS_ENDPOINT_URL"] = self.endpoint

    def folder(self, root: str) -> Path:
        return self.path / "terraform" / root

    def run(self, root: str, *words: str) -> Run:
        """``terraform <words>`` in a root; the caller judges the exit code."""
        done = subprocess.run(
            ["terraform", words[0], "-no-color", *words[1:]],
            cwd=self.folder(root),
            env=self.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=900,
        )
        return Run(done.returncode, done.stdout)

    def must(self, root: str, *words: str) -> Run:
        """The same; RuntimeError with Terraform's own words unless it exits 0."""
        done = self.run(root, *words)
        if done.code:
            cause = done.output[max(done.output.find("\nError:"), 0) :]
            raise RuntimeError(f"terraform {' '.join(words)} in terraform/{root}:\n{cause[:8000]}")
        return done

    def init(self, root: str) -> None:
        """Point the root's providers away from AWS, keep its state in the folder, and initialise it."""
        text = (self.folder(root) / "main.tf").read_text()
        names = [
            re.search(r'alias\s*=\s*"(\w+)"', body)
            for body in re.findall(r'(?ms)^provider "aws" \{.*?^\}', text)
        ]
        blocks = [
            PROVIDER
            + ("" if self.endpoint else NO_ACCOUNT)
            + (f'  alias = "{name.group(1)}"\n' if name else "")
            + "}\n"
            for name in names or [None]
        ]
        text = 'terraform {\n  backend "local" {}\n}\n' + "".join(blocks)
        (self.folder(root) / "offline_override.tf").write_text(text)
        values = {"account_id": ACCOUNT} | ({"people": PEOPLE} if root.endswith("platform") else {})
        (self.folder(root) / "offline.auto.tfvars.json").write_text(json.dumps(values))
        self.must(root, "init", "-reconfigure")

    def plan(self, root: str, *words: str) -> dict[str, Any]:
        """The plan as Terraform's JSON."""
        self.must(root, "plan", "-out=plan.bin", "-lock=false", *words)
        return self.show(root, "plan.bin")

    def show(self, root: str, *words: str) -> dict[str, Any]:
        """A plan's, or the state's, JSON."""
        done = subprocess.run(
            ["terraform", "show", "-json", *words],
            cwd=self.folder(root),
            env=self.env,
            check=True,
            capture_output=True,
            text=True,
        )
        found: dict[str, Any] = json.loads(done.stdout)
        return found


def digest() -> str:
    """sha256 of everything that a plan follows from."""
    whole = hashlib.sha256()
    for path in sorted(TERRAFORM.rglob("*")):
        if path.suffix == ".tf" or path.name in ("roles.yaml", "offline.py"):
            whole.update(path.relative_to(TERRAFORM).as_posix().encode() + b"\0" + path.read_bytes())
    return whole.hexdigest()


def plans(out: Path = BUILD / "plans") -> dict[str, dict[str, Any]]:
    """The plan of every root, bootstrap's of each environment; made anew only when the code has changed."""
    out.mkdir(parents=True, exist_ok=True)
    wanted: dict[str, tuple[str, tuple[str, ...]]] = {root: (root, ()) for root in ROOTS}
    wanted |= {f"bootstrap/{env}": ("bootstrap", (f"-var=environment={env}",)) for env in ENVIRONMENTS}
    files = {name: out / f"{name.removeprefix('envs/').replace('/', '-')}.json" for name in wanted}
    stamp = out / "digest"
    with (out / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not stamp.exists() or stamp.read_text() != digest() or not all(p.exists() for p in files.values()):
            stamp.unlink(missing_ok=True)

            def one(name: str) -> None:
                root, words = wanted[name]
                with tempfile.TemporaryDirectory() as folder:
                    workspace = Workspace(Path(folder))
                    workspace.init(root)
                    files[name].write_text(json.dumps(workspace.plan(root, *words)))

            with ThreadPoolExecutor(max_workers=2) as pool:
                list(pool.map(one, wanted))
            stamp.write_text(digest())
    return {name: json.loads(path.read_text()) for name, path in files.items()}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=BUILD / "plans")
    out = parser.parse_args().out
    if reason := missing():
        print(f"Cannot plan: {reason}", file=sys.stderr)
        return 2
    try:
        for name in plans(out):
            print(f"planned {name}")
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
