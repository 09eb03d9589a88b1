"""The command line itself: how it ends, whatever its surroundings."""

from __future__ import annotations

import os
import subprocess
import sys

PROGRAM = [sys.executable, "-c", "from sekisho.cli import run; run()"]


def test_a_reader_who_leaves_is_no_verdict() -> None:
    unread, output = os.pipe()
    os.close(unread)
    try:
        done = subprocess.run([*PROGRAM, "doctor"], stdout=output, stderr=subprocess.PIPE, check=False)
    finally:
        os.close(output)
    assert done.returncode == 141  # 128 + SIGPIPE, as a shell's own commands end
    assert done.stderr == b""


def test_a_terminal_that_lacks_letters_gets_the_text_all_the_same() -> None:
    environment = os.environ | {"PYTHONIOENCODING": "latin-1"}
    done = subprocess.run([*PROGRAM, "--help"], env=environment, capture_output=True, check=True)
    assert b"Sekisho (\\u95a2\\u6240)" in done.stdout
