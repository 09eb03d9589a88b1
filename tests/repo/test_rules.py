"""The repository's own rules, checked on the repository itself."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import yaml

from sekisho.cli import VERBS
from sekisho.params import Params, load_params

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src/sekisho"
ROOMS = [
    "data",
    "features",
    "market",
    "backtest",
    "checkpoints",
    "train",
    "trainer",
    "launch",
    "forge",
    "release",
    "serving",
    "monitoring",
    "cli",
]
SHARED = {
    *("params", "errors", "calendar", "dvc_files", "explain", "git", "objects", "page"),
    *("checkout", "partition_store", "plan", "pointer"),
}
LONGEST_MODULE, LONGEST_FUNCTION = 500, 80
TEXT = {".py", ".md", ".yml", ".yaml", ".toml", ".txt", ".json", ".lock", ".dvc", ".in", ".cfg", ".ini", ""}


@cache
def tracked() -> list[Path]:
    """Files of the repository: committed, or about to be (not ignored)."""
    words = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    names = subprocess.run(words, cwd=ROOT, check=True, capture_output=True).stdout.decode().split("\0")
    return sorted(ROOT / name for name in names if name and (ROOT / name).is_file())


def modules() -> list[Path]:
    return [path for path in tracked() if path.is_relative_to(PACKAGE) and path.suffix == ".py"]


def names(paths: list[Path]) -> list[str]:
    return [path.relative_to(ROOT).as_posix() for path in paths]


def imported(tree: ast.AST) -> set[str]:
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


@pytest.mark.parametrize("name", names(modules()))
def test_a_room_imports_only_rooms_to_its_left(name):
    room = (ROOT / name).relative_to(PACKAGE).parts[0].removesuffix(".py")
    used = {module.split(".")[1] for module in imported(parse(name)) if module.startswith("sekisho.")}
    assert not {"training", "demo"} & {module.split(".")[0] for module in imported(parse(name))}
    rooms = used - SHARED
    allowed = set(ROOMS[: ROOMS.index(room) + 1]) if room in ROOMS else set()
    assert rooms <= allowed, f"{name} imports {sorted(rooms - allowed)}"


@cache
def parse(name: str) -> ast.Module:
    return ast.parse((ROOT / name).read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    "name", names([p for p in tracked() if p.suffix == ".py" and "tests" not in p.parts])
)
def test_modules_and_functions_stay_small(name):
    assert len((ROOT / name).read_text(encoding="utf-8").splitlines()) <= LONGEST_MODULE
    if not name.startswith("training/"):  # one file, one algorithm, top to bottom
        long = [
            f"{node.name} ({node.end_lineno - node.lineno + 1} lines)"
            for node in ast.walk(parse(name))
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            and (node.end_lineno or 0) - node.lineno + 1 > LONGEST_FUNCTION
        ]
        assert not long


def test_there_is_no_drawer_for_odds_and_ends():
    assert not [p for p in modules() if p.stem in {"utils", "util", "helpers", "common", "misc"}]


def code_files() -> list[Path]:
    rooms = ("src/", "training/")
    return [
        path
        for path, name in zip(tracked(), names(tracked()), strict=True)
        if path.suffix == ".py" and name.startswith(rooms) and path != PACKAGE / "params.py"
    ]


def test_params_yaml_names_each_parameter_once_and_the_code_reads_it():
    params = load_params(ROOT / "params.yaml")
    attributes = {
        node.attr
        for p in code_files()
        for node in ast.walk(ast.parse(p.read_text()))
        if isinstance(node, ast.Attribute)
    }
    unused = [
        f"{section}.{key}"
        for section in Params.model_fields
        for key in type(getattr(params, section)).model_fields
        if key not in attributes
    ]
    assert not unused


def test_params_yaml_has_no_key_twice():
    class Strict(yaml.SafeLoader):
        def construct_mapping(self, node, deep=False):
            keys = [self.construct_object(key) for key, _ in node.value]
            assert len(keys) == len(set(keys)), f"a key stands twice: {keys}"
            return super().construct_mapping(node, deep)

    yaml.load((ROOT / "params.yaml").read_text(), Loader=Strict)


def test_every_parameter_has_its_meaning_or_unit_beside_it_or_a_telling_name():
    sections = yaml.safe_load((ROOT / "params.yaml").read_text())
    for model in Params.model_fields.values():
        for key, field in model.annotation.model_fields.items():
            assert field.is_required(), (
                f"{key} has a default in params.py; params.yaml is the only place of values"
            )
    assert list(sections) == list(Params.model_fields)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_its_command(verb):
    module = importlib.import_module(f"sekisho.cli.{VERBS[verb][0]}")
    assert callable(getattr(module, verb.replace("-", "_")))


def markdown() -> list[Path]:
    return [path for path in tracked() if path.suffix == ".md" and "releases" not in path.parts]


@pytest.mark.parametrize("name", names(markdown()))
def test_every_relative_link_leads_somewhere(name):
    text = re.sub(r"```.*?```|`[^`\n]*`", "", (ROOT / name).read_text(encoding="utf-8"), flags=re.DOTALL)
    links = re.findall(r"\]\(([^)\s#]+)(?:#[^)]*)?\)", text)
    missing = [
        link
        for link in links
        if not re.match(r"[a-z]+:", link) and not ((ROOT / name).parent / link).exists()
    ]
    assert not missing


def commands(text: str) -> list[str]:
    """Every ``sekisho …`` and ``make …`` that a text shows as code."""
    code = "\n".join(
        re.findall(r"```[a-z]*\n(.*?)```", text, flags=re.DOTALL) + re.findall(r"`([^`\n]+)`", text)
    )
    return re.findall(r"(?:^|[\s;&(/])((?:sekisho|make)(?: +[^\s;&|)#`]+)+)", code, flags=re.MULTILINE)


@pytest.mark.parametrize("name", names(markdown()))
def test_every_command_that_a_page_shows_exists(name):
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    for line in commands((ROOT / name).read_text(encoding="utf-8")):
        program, word = line.split()[:2]
        if program == "make" and re.fullmatch(r"[a-z][a-z-]+", word):
            assert word in targets, line
        elif program == "sekisho" and re.fullmatch(r"[a-z][a-z-]+", word):
            assert word in VERBS, line


# built from pieces, so that this file does not hold what it forbids
MACHINE = re.compile(
    "|".join([r"/" + r"work/", r"/home/" + r"[a-z]+/", r"/Users/" + r"[A-Za-z]+/", "/ro" + "ot/"])
)
HOSTS = [
    r"pypi\." + "org",
    r"pythonhosted\." + "org",
    r"npmjs\." + "(com|org)",
    "artifact" + "ory",
    "nexus" + r"\.",
]
REGISTRIES = re.compile("|".join([*HOSTS, r"registry\.[a-z-]+\." + "(org|com|io)"]))


@pytest.mark.parametrize(
    "name", names([p for p in tracked() if p.suffix in TEXT and p.stat().st_size < 2_000_000])
)
def test_no_file_names_a_machines_paths_or_a_package_registry(name):
    if name == "tests/repo/test_rules.py":
        return
    text = (ROOT / name).read_text(encoding="utf-8", errors="replace")
    assert not MACHINE.search(text), MACHINE.search(text)
    assert not REGISTRIES.search(text), REGISTRIES.search(text)


def test_help_imports_nothing_heavy():
    heavy = [
        "torch",
        "mlserver",
        "sigstore",
        "matplotlib",
        "pandera",
        "exchange_calendars",
        "polars",
        "numpy",
    ]
    program = (
        "import sys; sys.argv = ['sekisho', '--help']\n"
        "from sekisho.cli import main\n"
        "main(standalone_mode=False)\n"
        f"found = [m for m in {heavy} if m in sys.modules]\n"
        "assert not found, found"
    )

    words = [sys.executable, "-c", program]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_dvc_does_not_hash_what_python_leaves_beside_the_code():
    """Else the digest of ``src/sekisho/<room>`` changes with the interpreter and never matches git."""
    assert "__pycache__" in (ROOT / ".dvcignore").read_text()
