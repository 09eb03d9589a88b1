"""The command line itself: how it ends, what goes where, what a shell completes, wherever it runs."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest
from docs.reference import commands

from sekisho.cli import main
from sekisho.cli.terminal import show, steps, words_to_stderr

ROOT = Path(__file__).parents[1]
PROGRAM = [sys.executable, "-c", "from sekisho.cli import run; run()"]
BARE = {name: value for name, value in os.environ.items() if name not in ("CI", "NO_COLOR", "TERM")}
COLOUR = "\x1b["
WITHOUT_JSON = {  # command -> why it has no --json
    "dvc": "prints what DVC prints",
    "runs": "prints JSON always: the items of a fan-out",
    "session": "prints JSON always: true or false",
    "repo rules show": "prints JSON always: the form of the files",
    "serve": "runs until it is stopped, and answers by HTTP",
    "drift exporter": "runs until it is stopped, and answers by HTTP",
    "drift relay": "runs until it is stopped, and answers by HTTP",
}
DOCUMENTS = {  # a call that is quick -> its exit code
    "doctor --json": (0, 2),
    "explain --json": (0,),
    "explain halted --json": (0,),
    "plan --json": (0, 2),  # without measured rates there is no plan
    "runs": (0,),
    "session --day 2026-11-03": (0,),
    "freeze --json": (0,),
    "kpi --json": (0,),
    "audit log --json": (0,),
    "audit check --json": (0, 2),  # a shallow clone cannot be checked
    "gate --out {tmp}/gate.json --json": (0,),
    "trials --out {tmp}/trials.json --json": (0,),
    "switch off --file {tmp}/switch --reason test --json": (0,),
}


def sekisho(*words: str, **options: object) -> subprocess.CompletedProcess[bytes]:
    options = {"cwd": ROOT, "capture_output": True, "check": False} | options
    return subprocess.run([*PROGRAM, *words], **options)  # type: ignore[call-overload,no-any-return]


def on_a_terminal(*words: str, **environment: str) -> str:
    """What a command shows where stdout and stderr are a terminal."""
    ours, its = pty.openpty()
    try:
        child = subprocess.Popen([*PROGRAM, *words], cwd=ROOT, env=BARE | {"TERM": "xterm"} | environment,
                                 stdin=its, stdout=its, stderr=its)  # fmt: skip
    finally:
        os.close(its)
    said = b""
    while True:
        try:
            block = os.read(ours, 4096)
        except OSError:  # Linux: the other end is closed
            block = b""
        if not block:
            break
        said += block
    os.close(ours)
    child.wait()
    return said.decode()


def test_every_option_that_takes_a_figure_refuses_what_is_no_number():
    """Click's own ranges let NaN through, and every comparison with it is false."""
    taken = [
        (name, option)
        for name, command in commands(main)
        for option in command.params
        if isinstance(option.type, click.types.FloatParamType)
    ]
    assert ("kpi", "baseline") in {(name, option.name) for name, option in taken}
    for _, option in taken:
        for word in ("nan", "inf", "-inf", "NaN"):
            with pytest.raises(click.BadParameter, match=re.escape(word)):
                option.type.convert(word, option, None)


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


def test_every_command_prints_json_when_asked_or_says_here_why_not() -> None:
    without = {
        name
        for name, command in commands(main)
        if not any("--json" in parameter.opts for parameter in command.params)
    }
    assert without == set(WITHOUT_JSON)


@pytest.mark.parametrize("call", DOCUMENTS)
def test_json_on_stdout_is_one_document_and_nothing_else(call: str, tmp_path: Path) -> None:
    done = sekisho(*call.format(tmp=tmp_path).split())
    assert done.returncode in DOCUMENTS[call], done.stderr
    if done.returncode == 0 or done.stdout:
        json.loads(done.stdout)
    assert COLOUR.encode() not in done.stdout + done.stderr


def test_json_is_ascii_so_that_no_terminal_spoils_it() -> None:
    done = sekisho("explain", "ゲート", "--json", env=os.environ | {"PYTHONIOENCODING": "latin-1"})
    assert "ゲート" in json.loads(done.stdout)[0]["name"]


def test_a_refusal_names_the_command_that_explains_it(tmp_path: Path) -> None:
    done = sekisho("freeze", "--file", "deploy/argocd/windows.yaml", "--as-of", "2099-01-05")
    if done.returncode == 2:
        pytest.skip("the calendar does not reach so far")
    assert done.returncode == 1
    assert done.stdout == b""
    assert done.stderr.decode().splitlines()[-1].strip() == "why: sekisho explain sync-windows"


def test_colour_is_for_terminals_alone() -> None:
    assert COLOUR in on_a_terminal("doctor")
    assert COLOUR in on_a_terminal("explain", "halted")
    for plain in ({"NO_COLOR": "1"}, {"CI": "true"}, {"TERM": "dumb"}):
        assert COLOUR not in on_a_terminal("doctor", **plain)
        assert COLOUR not in on_a_terminal("explain", "halted", **plain)


def test_work_shows_nothing_where_no_terminal_is_and_leaves_stdout_to_the_result(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with steps("backtest", 2) as step:
        step()
        step()
    assert capsys.readouterr() == ("", "")
    with words_to_stderr():
        print("trained 1 of 2")
    show({"runs": 2}, "train: 2 agents", as_json=True)
    assert capsys.readouterr() == ('{"runs": 2}\n', "trained 1 of 2\n")


@pytest.mark.parametrize("words", [["explain", "no-such-name-at-all"], ["audit", "trace", "--help-me"]])
def test_errors_go_to_stderr(words: list[str]) -> None:
    done = sekisho(*words)
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr


def completed(line: str, folder: Path = ROOT) -> list[str]:
    """What click offers a bash for the last word of a line."""
    words = line.split(" ")
    environment = os.environ | {
        "_SEKISHO_COMPLETE": "bash_complete", "COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1),
    }  # fmt: skip
    program = [
        sys.executable,
        "-c",
        "import sys; sys.argv[0] = 'sekisho'; from sekisho.cli import run; run()",
    ]
    done = subprocess.run(program, cwd=folder, env=environment, capture_output=True, check=True)
    return [line.partition(",")[2] for line in done.stdout.decode().splitlines()]


def test_a_shell_completes_verbs_options_names_and_releases(tmp_path: Path) -> None:
    assert completed("sekisho re") == ["report", "revoke", "replay", "retrain", "repo"]
    assert completed("sekisho audit tr") == ["trace"]
    assert completed("sekisho gate --re") == ["--require"]
    assert completed("sekisho explain approval-t") == ["approval-time"]
    assert completed("sekisho explain gate.max_p") == ["gate.max_pbo"]
    assert completed("sekisho explain --lang ") == ["en", "ja"]
    release = tmp_path / "releases/momentum/3"
    release.mkdir(parents=True)
    (release / "manifest.json").write_text("{}")
    assert completed("sekisho verify mo", tmp_path) == ["momentum/3"]
    assert completed("sekisho serve --release ", tmp_path) == ["momentum/3"]


def test_completing_a_verb_and_help_import_no_room() -> None:
    program = (
        "import sys; sys.argv = ['sekisho', '--help']; from sekisho.cli import main\n"
        "import click\n"
        "main.shell_complete(click.Context(main), '')\n"
        "main(['--help'], standalone_mode=False)\n"
        "print(sorted(name for name in sys.modules if name.startswith('sekisho.')))\n"
        "assert 'rich' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, text=True)
    assert done.stdout.splitlines()[-1] == "['sekisho.cli', 'sekisho.cli.terminal', 'sekisho.errors']"


@pytest.mark.parametrize("language", ["en", "ja"])
def test_the_page_on_the_terminal_lists_what_prints_json_always(language: str) -> None:
    said = (ROOT / f"docs/{language}/terminal.md").read_text(encoding="utf-8")
    always = [name for name, why in WITHOUT_JSON.items() if why.startswith("prints JSON always")]
    assert [name for name in always if f"`sekisho {name}`" not in said] == []
    assert re.search(r"_SEKISHO_COMPLETE=bash_source sekisho", said)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_no_bad_input() -> None:
    """A workflow tries another machine after 75, and none after 2."""
    with Path("/dev/full").open("wb") as full:
        assert sekisho("runs", stdout=full, capture_output=False).returncode == 75
