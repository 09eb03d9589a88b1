"""``sekisho doctor``: what this machine has, what it lacks, what for, and how to get it."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import click

# tool -> (needed for, how to get it); only the first two are needed by `make demo` and `make test`
TOOLS = {
    "git": ("everything", "your system's package manager"),
    "make": ("everything", "your system's package manager"),
    "go": ("linting workflows (actionlint)", "https://go.dev/dl"),
    "kubectl": ("rendering and applying deploy/", "https://kubernetes.io/docs/tasks/tools"),
    "node": ("posting reports with CML", "https://nodejs.org"),
}
REQUIRED = ("git", "make")
DISTRIBUTIONS = ("torch", "gymnasium", "dvc", "pandera", "mlserver", "sigstore", "onnxruntime")
DISK_GB = 10  # the environment takes about 7, the demo and its cache about 1


@dataclass(frozen=True)
class Finding:
    name: str
    state: str  # ok, missing (needed) or optional (missing, but only some tasks need it)
    detail: str
    remedy: str = ""


def examine(root: Path) -> list[Finding]:
    """Everything the doctor looks at, for the checkout at ``root``."""
    found = [_python(), _disk(root), *map(_tool, TOOLS), *map(_distribution, DISTRIBUTIONS)]
    found += [_identity(), _gpu()]
    found.append(
        Finding("sample data", "ok", "data/bars")
        if (root / "data" / "bars").is_dir()
        else Finding("sample data", "optional", "data/bars is not there", "dvc pull data.dvc")
    )
    return found


def _python() -> Finding:
    version = platform.python_version()
    if (3, 11) <= sys.version_info[:2] < (3, 13):
        return Finding("python", "ok", version)
    return Finding(
        "python", "missing", version, "install Python 3.11 or 3.12 and run `make setup PYTHON=python3.11`"
    )


def _disk(root: Path) -> Finding:
    free = shutil.disk_usage(root).free / 1e9
    if free >= DISK_GB:
        return Finding("disk", "ok", f"{free:.0f} GB free")
    return Finding(
        "disk", "missing", f"{free:.1f} GB free", f"free at least {DISK_GB} GB; `dvc gc --workspace` helps"
    )


def _tool(name: str) -> Finding:
    purpose, remedy = TOOLS[name]
    path = shutil.which(name)
    if path:
        return Finding(name, "ok", f"for {purpose}")
    return Finding(name, "missing" if name in REQUIRED else "optional", f"needed for {purpose}", remedy)


def _distribution(name: str) -> Finding:
    try:
        return Finding(name, "ok", importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return Finding(name, "missing", "not installed", "make setup")


def _gpu() -> Finding:
    if shutil.which("nvidia-smi"):
        return Finding("GPU", "ok", "training uses it")
    return Finding("GPU", "optional", "none: training runs on the CPU", "the nightly runners have one")


def _identity() -> Finding:
    command = ["git", "var", "GIT_COMMITTER_IDENT"]
    if shutil.which("git") and subprocess.run(command, capture_output=True, check=False).returncode == 0:
        return Finding("git identity", "ok", "for commits and DVC experiments")
    remedy = "git config --global user.name …; git config --global user.email …"
    return Finding("git identity", "optional", "needed for commits and DVC experiments", remedy)


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
def doctor(as_json: bool) -> None:
    """Say what is missing on this machine and how to get it; exit 2 when something needed is missing."""
    findings = examine(Path.cwd())
    if as_json:
        click.echo(json.dumps([asdict(f) for f in findings], ensure_ascii=False, indent=1))
    else:
        marks = {"ok": click.style("ok      ", fg="green"), "missing": click.style("MISSING ", fg="red")}
        for f in findings:
            remedy = f"  → {f.remedy}" if f.state != "ok" and f.remedy else ""
            click.echo(f"{marks.get(f.state, 'optional')} {f.name:<13} {f.detail}{remedy}")
    if any(f.state == "missing" for f in findings):
        click.get_current_context().exit(2)
