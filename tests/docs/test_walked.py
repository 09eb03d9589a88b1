"""Tutorial and guides, run as they stand: each command in one shell, each line of output that is shown."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

REPO = Path(__file__).parents[2]
PAGES = sorted(path for path in (REPO / "docs/en").rglob("*.md") if "```console" in path.read_text("utf-8"))
PORT = "8080"  # of the page; here a free one

pytestmark = pytest.mark.slow


def console(text: str) -> list[tuple[str, list[str]]]:
    """Commands of the ``console`` blocks with the lines of output that are shown under each."""
    found: list[tuple[str, list[str]]] = []
    for block in re.findall(r"```console\n(.*?)```", text, flags=re.DOTALL):
        for line in block.splitlines():
            if line.startswith("$ "):
                found.append((line[2:], []))
            else:
                found[-1][1].append(line)
    return found


def free_port() -> str:
    """The first of three neighbours that nobody listens on: HTTP, gRPC, metrics."""
    for port in range(20080, 30000, 7):
        try:
            for neighbour in range(3):
                with socket.socket() as one:
                    one.bind(("127.0.0.1", port + neighbour))
        except OSError:
            continue
        return str(port)
    raise AssertionError("no free port")


def run(script: str, folder: Path) -> str:
    """What a shell says to the script, until it ends; nothing that it started is left."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = os.environ | {"PATH": path, "OMP_NUM_THREADS": "1", "GIT_CONFIG_GLOBAL": os.devnull}
    env["PYTHONPATH"] = str(folder / "src")  # the clone's own code, as after its own `make setup`
    log = folder / "tutorial.log"
    with log.open("w") as out:
        shell = subprocess.Popen(
            ["bash", "-c", script], cwd=folder, env=env, stdout=out, stderr=out, start_new_session=True
        )
        try:
            shell.wait(timeout=1200)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(shell.pid, signal.SIGKILL)
    return log.read_text()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_command_of_a_page_does_what_it_shows(page: Path, tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "--quiet", str(REPO), str(clone)], check=True)
    steps = console(page.read_text(encoding="utf-8"))
    port = free_port()
    script = "\n".join(
        f"{command.replace(PORT, port)}\ncode=$?; echo; echo '=== {number}' $code; [ $code = 0 ] || exit"
        for number, (command, _) in enumerate(steps)
    )
    said = run(script, clone)
    parts = re.split(r"^=== (\d+) (\d+)\n", said, flags=re.MULTILINE)
    outputs = {
        int(n): (int(code), text) for text, n, code in zip(parts[::3], parts[1::3], parts[2::3], strict=False)
    }
    for number, (command, lines) in enumerate(steps):
        assert number in outputs, f"never ended: {command}\n{parts[-1]}"
        code, text = outputs[number]
        assert code == 0, f"{command}\n{text}"
        pattern = ".*\n".join(re.escape(line).replace("…", ".*") for line in lines)
        assert re.search(pattern, text, flags=re.DOTALL), f"{command}\nshows not\n{lines}\nbut\n{text}"
