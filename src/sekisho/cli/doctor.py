"""``sekisho doctor``: what this machine has, what it lacks, what for, and how to get it."""

from __future__ import annotations

import configparser
import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import click

from sekisho.cli.terminal import json_option, show

# tool -> (needed for, how to get it); only the first two are needed by `make demo` and `make test`
TOOLS = {
    "git": ("everything", "your system's package manager"),
    "make": ("everything", "your system's package manager"),
    "go": ("linting workflows (actionlint)", "https://go.dev/dl"),
    "kubectl": ("rendering and applying deploy/", "https://kubernetes.io/docs/tasks/tools"),
    "terraform": ("planning and testing terraform/", "https://developer.hashicorp.com/terraform/install"),
    "node": ("posting reports with CML", "https://nodejs.org"),
}
REQUIRED = ("git", "make")
DISTRIBUTIONS = ("torch", "gymnasium", "dvc", "pandera", "mlserver", "sigstore", "onnxruntime")
COMMANDS = ("sekisho", "dvc")  # of the environment; the pipeline's stages call them by name
FREE_GB = 3  # who runs this has the environment; the demo, its cache and a few experiments take about 2


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    name: str
    state: str  # ok, missing (needed) or optional (missing, but only some tasks need it)
    detail: str
    remedy: str = ""


def examine(root: Path) -> list[Finding]:
    """Everything the doctor looks at, for the checkout at ``root``."""
    found = [_python(), *map(_tool, TOOLS), *(_distribution(root, name) for name in DISTRIBUTIONS), _path()]
    found += [
        _checkout(root),
        _history(root),
        _identity(root),
        _disk(root),
        _remote(root),
        _sample(root),
        _gpu(),
    ]
    return found


def _python() -> Finding:
    version = platform.python_version()
    if (3, 11) <= sys.version_info[:2] < (3, 13):
        return Finding("python", "ok", version)
    remedy = "install Python 3.11 or 3.12 and run `rm -rf .venv && make setup PYTHON=python3.12`"
    return Finding("python", "missing", version, remedy)


def _path() -> Finding:
    """The shell must find this environment's commands, not another's: DVC's stages call them by name."""
    here = Path(sys.executable).parent
    missing = [name for name in COMMANDS if not _same(shutil.which(name), here / name)]
    if not missing:
        return Finding("path", "ok", "finds the environment's commands")
    detail = f"{' and '.join(missing)} on it, if any, are not this environment's"
    return Finding("path", "missing", detail, "`. .venv/bin/activate` in each new shell")


def _same(found: str | None, wanted: Path) -> bool:
    return found is not None and Path(found).exists() and Path(found).samefile(wanted)


def _checkout(root: Path) -> Finding:
    if (root / "params.yaml").is_file() and (root / ".dvc").is_dir():
        if not os.access(root, os.W_OK):
            return Finding(
                "checkout", "missing", f"{root} cannot be written", "clone into a folder of your own"
            )
        return Finding("checkout", "ok", "its root")
    return Finding(
        "checkout", "missing", f"{root} is not the root of one", "run everything at the root of the clone"
    )


def _history(root: Path) -> Finding:
    command = ["git", "-C", str(root), "rev-parse", "--is-shallow-repository"]
    said = (
        subprocess.run(command, capture_output=True, text=True, check=False) if shutil.which("git") else None
    )
    if said is None or said.returncode:
        return Finding(
            "history",
            "missing",
            "not a git repository",
            "git clone, not an archive: trials are counted from git",
        )
    if said.stdout.strip() == "false":
        return Finding("history", "ok", "whole")
    return Finding(
        "history", "optional", "shallow: the gate and `sekisho audit check` refuse", "git fetch --unshallow"
    )


def _disk(root: Path) -> Finding:
    """Free space where DVC keeps its cache, which may be another disk than the checkout's."""
    cache = root / ".dvc" / _dvc(root, "cache", "dir", "cache")
    place = next(folder for folder in (cache, *cache.parents) if folder.exists())
    free = shutil.disk_usage(place).free / 1e9
    if free >= FREE_GB:
        return Finding("disk", "ok", f"{free:.0f} GB free for DVC's cache")
    remedy = f"free at least {FREE_GB} GB (`dvc gc --workspace` helps), or `dvc cache dir --local FOLDER`"
    return Finding("disk", "missing", f"{free:.1f} GB free in {place}", remedy)


def _remote(root: Path) -> Finding:
    """The remote that `dvc pull` asks: named, known, and there where it is a folder."""
    name = _dvc(root, "core", "remote", "")
    if not name:
        return Finding("remote", "missing", "DVC has no default remote", "git restore .dvc/config")
    url = _dvc(root, f'remote "{name}"', "url", "")
    if not url:
        return Finding(
            "remote", "missing", f"{name} has no url", "git restore .dvc/config; see .dvc/config.local"
        )
    folder = root / ".dvc" / url
    if "://" in url or folder.is_dir():
        return Finding("remote", "ok", f"{name}, {url}" + (" (needs your role)" if "://" in url else ""))
    return Finding(
        "remote",
        "missing",
        f"{name}: {folder.resolve()} is not there",
        "git restore samples, or mend .dvc/config.local",
    )


def _dvc(root: Path, section: str, option: str, default: str) -> str:
    """A setting of DVC's, the checkout's own over the repository's."""
    settings = configparser.ConfigParser(interpolation=None, strict=False)
    settings.read([root / ".dvc/config", root / ".dvc/config.local"], encoding="utf-8")
    for written in (section, f"'{section}'"):  # as DVC quotes names of remotes
        if settings.has_option(written, option):
            default = settings.get(written, option)
    return default


def _sample(root: Path) -> Finding:
    if (root / "data" / "bars").is_dir():
        return Finding("sample data", "ok", "data/bars")
    return Finding("sample data", "optional", "data/bars is not there", "dvc pull data.dvc")


def _tool(name: str) -> Finding:
    purpose, remedy = TOOLS[name]
    path = shutil.which(name)
    if path:
        return Finding(name, "ok", f"for {purpose}")
    return Finding(name, "missing" if name in REQUIRED else "optional", f"needed for {purpose}", remedy)


def _distribution(root: Path, name: str) -> Finding:
    """Installed, and as the lock has it: after a pull it may be another."""
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return Finding(name, "missing", "not installed", "make setup")
    lock = root / "requirements/dev.txt"
    locked = (
        re.search(rf"^{name}==(\S+)", lock.read_text(encoding="utf-8"), re.MULTILINE)
        if lock.exists()
        else None
    )
    if locked and locked[1] != version.split("+")[0]:  # torch's builds name their device after a +
        return Finding(name, "missing", f"{version}, the lock has {locked[1]}", "make setup")
    return Finding(name, "ok", version)


def _gpu() -> Finding:
    if shutil.which("nvidia-smi"):
        return Finding("GPU", "ok", "training uses it")
    return Finding("GPU", "optional", "none: training runs on the CPU", "the nightly runners have one")


def _identity(root: Path) -> Finding:
    """Named in git's settings: what git would make up from the account and the machine, DVC does not take."""
    names = [["git", "-C", str(root), "config", f"user.{key}"] for key in ("name", "email")]
    runs = [subprocess.run(words, capture_output=True, check=False) for words in names if shutil.which("git")]
    if runs and all(run.stdout.strip() for run in runs):
        return Finding("git identity", "ok", "for commits and DVC experiments")
    remedy = "git config --global user.name …; git config --global user.email …"
    return Finding("git identity", "optional", "needed for commits and DVC experiments", remedy)


@click.command()
@json_option
def doctor(as_json: bool) -> None:
    """Say what is missing on this machine and how to get it; exit 2 when something needed is missing."""
    findings = examine(Path.cwd())
    marks = {
        "ok": click.style("ok      ", fg="green"),
        "missing": click.style("MISSING ", fg="red"),
        "optional": click.style("optional", fg="yellow"),
    }
    lines = [
        f"{marks[f.state]} {f.name:<13} {f.detail}" + (f"  → {f.remedy}" if f.remedy else "")
        for f in findings
    ]
    missing = [f.name for f in findings if f.state == "missing"]
    lines.append(f"missing: {', '.join(missing)}" if missing else "nothing that is needed is missing")
    show([asdict(f) for f in findings], "\n".join(lines), as_json)
    if missing:
        click.get_current_context().exit(2)
