"""What both demos share: a scratch folder, numbered steps, and commands whose output is kept."""

from __future__ import annotations

import ctypes
import fcntl
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.markup import escape
from ruamel.yaml import YAML

REPO = Path(__file__).resolve().parent.parent
console = Console(highlight=False, soft_wrap=True)


class StepFailed(Exception):
    """A command of the demo ended otherwise than the step says it must."""


class Scratch:
    """A folder that is made anew at each run; only DVC's cache outlives it.

    So a second run takes everything unchanged from the cache, and a run that was interrupted leaves
    nothing that the next one could trip over.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.kept = folder.with_name(folder.name + "-cache")
        folder.parent.mkdir(exist_ok=True)
        self._lock = folder.with_name(folder.name + ".lock").open("w")  # held until this process ends
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StepFailed(f"another one is running in {self.shown(folder)}: wait for it") from error
        if folder.exists():
            shutil.rmtree(folder)
        (folder / "logs").mkdir(parents=True)
        self.kept.mkdir(parents=True, exist_ok=True)
        self.started = time.monotonic()
        self.number = 0
        bin_folder = str(Path(sys.executable).parent)
        self.env = {
            **os.environ,
            "PATH": bin_folder + os.pathsep + os.environ["PATH"],
            "SEKISHO_FORGE": f"local:{folder / 'forge'}",
            "GIT_CONFIG_GLOBAL": str(_git_config(folder)),  # the user's hooks, keys and templates stay out
            "GIT_CONFIG_SYSTEM": os.devnull,
            "DVC_NO_ANALYTICS": "1",
            "OMP_NUM_THREADS": "1",
        }
        for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "DVC_ROOT", "PYTHONDONTWRITEBYTECODE"):
            self.env.pop(name, None)  # the last: a hundred short commands start twice as fast with bytecode

    def shown(self, path: Path) -> str:
        """``path`` as the user would type it from the checkout."""
        return os.path.relpath(path, REPO)

    @contextmanager
    def step(self, title: str) -> Iterator[list[str]]:
        """One numbered line with its time; what the block appends to the list is printed below it."""
        self.number += 1
        notes: list[str] = []
        start = time.monotonic()
        label = f"[bold]{self.number:2d}[/bold]  {title}"
        with console.status(label) as self._status:
            self._label = label
            try:
                yield notes
            except OSError as error:  # a full disk has no name of its own
                error.filename = error.filename or self.shown(self.folder)
                raise
        console.print(f"{label} [dim]{time.monotonic() - start:.1f} s[/dim]")
        for note in notes:
            console.print(f"      {note}", markup=False)

    def run(
        self,
        *command: str | Path,
        cwd: Path,
        actor: str = "sekisho[bot]",
        expect: Sequence[int] = (0,),
        env: dict[str, str] | None = None,
    ) -> str:
        """Run one command as ``actor``, keep its output in logs/, return its standard output.

        Raises:
            StepFailed: it ended with another exit code than expected; shows its last lines.
        """
        words = [str(word) for word in command]
        log = self.folder / "logs" / f"{self.number:02d}.log"
        person = {"SEKISHO_ACTOR": actor}
        for role in ("AUTHOR", "COMMITTER"):
            person |= {f"GIT_{role}_NAME": actor, f"GIT_{role}_EMAIL": f"{actor}@local.invalid"}
        process = subprocess.Popen(
            words, cwd=cwd, env=self.env | person | (env or {}), text=True, errors="replace",
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            start_new_session=True, preexec_fn=end_with_parent,
        )  # fmt: skip
        assert process.stdout is not None
        lines, start = [], time.monotonic()
        try:
            with log.open("a", buffering=1, encoding="utf-8") as kept:
                kept.write(f"$ {shlex.join(words)}\n")
                for line in process.stdout:
                    kept.write(line)
                    lines.append(line)
                    if line.strip() and hasattr(self, "_status"):
                        self._status.update(f"{self._label} [dim]{escape(line.strip()[:90])}[/dim]")
                kept.write(f"# {time.monotonic() - start:.1f} s, exit code {process.wait()}\n")
        finally:
            if process.poll() is None:
                _end_group(process)
        if process.returncode not in expect:
            raise StepFailed(
                f"step {self.number}: `{shlex.join(words)}` ended with exit code {process.returncode}:\n"
                + "".join(lines[-25:])
                + f"\nfull log: {self.shown(log)}"
            )
        return "".join(lines)

    def clone(self, name: str) -> Path:
        """A working clone of the scratch origin that shares the kept DVC cache."""
        target = self.folder / name
        self.run("git", "clone", "--quiet", self.folder / "forge" / "origin.git", target, cwd=self.folder)
        self.local_dvc(target)
        return target

    def local_dvc(self, clone: Path) -> None:
        """Point DVC's cache and the remotes that CI writes at folders of this machine, for this clone."""
        text = f"[cache]\n    dir = {self.kept / 'cache'}\n"
        for remote in ("storage", "retrain"):
            text += f"['remote \"{remote}\"']\n    url = {self.folder / remote}\n"
        (clone / ".dvc" / "config.local").write_text(text)


def _git_config(folder: Path) -> Path:
    """All of git's settings: this checkout may be read though another user owns it, as in a container."""
    path = folder / "gitconfig"
    for place in (REPO, REPO / ".git"):  # a clone asks for the second
        words = ["git", "config", "--file", str(path), "--add", "safe.directory", str(place)]
        subprocess.run(words, check=True, cwd=folder)
    return path


def merge_params(path: Path, overlay: Path) -> None:
    """Set the keys of ``overlay`` in the parameter file ``path``, keeping its comments."""
    yaml = YAML()
    params = yaml.load(path)
    for section, values in (YAML(typ="safe").load(overlay) or {}).items():
        params[section].update(values)
    yaml.dump(params, path)


def picture(title: str) -> str:
    """What the console has recorded, as an SVG that loads nothing from a network."""
    plain = re.sub(r"@font-face \{\{.*?\}\}\s*", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)
    return console.export_svg(title=title, code_format=plain.replace("Fira Code", "ui-monospace"))


def end_with_parent() -> None:
    """Linux: have the kernel end a child of this demo when the demo is killed."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # 1: PR_SET_PDEATHSIG


def _end_group(process: subprocess.Popen[str]) -> None:
    """End a command with all that it started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(timeout=10)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)


def tell(story: Callable[[], None]) -> int:
    """Run a demo to its end, or say why it stopped and what to do; returns the exit code."""
    signal.signal(signal.SIGTERM, _interrupted)
    try:
        story()
    except KeyboardInterrupt:
        console.print("\ninterrupted; run it again: it starts clean and takes finished work from the cache")
        return 130
    except StepFailed as error:
        console.print(f"[red]failed:[/red] {escape(str(error))}")
        return 2
    except OSError as error:
        console.print(f"[red]failed:[/red] {escape(str(error))}")
        console.print("  remedy: check the permissions of this folder and the free space on its disk")
        return 2
    return 0


def _interrupted(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
