"""The images: from named digests and hashed locks, and nobody in them is root."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "deploy/images").glob("*/Containerfile"))
NAMES = [path.parent.name for path in FILES]


def instructions(name: str) -> list[tuple[str, str]]:
    text = re.sub(r"^#.*\n", "", (ROOT / "deploy/images" / name / "Containerfile").read_text(), flags=re.M)
    lines = [line for line in text.replace("\\\n", " ").split("\n") if line.strip()]
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in lines)]


def test_there_is_one_for_the_server_one_for_the_runner_and_one_for_the_night():
    assert NAMES == ["policy-server", "runner", "trainer"]


@pytest.mark.parametrize("name", NAMES)
def test_every_base_is_named_by_its_digest(name):
    stages, bases = set(), []
    for word, rest in instructions(name):
        if word == "FROM":
            base, _, alias = rest.partition(" AS ")
            bases += [] if base in stages else [base]
            stages.add(alias)
    assert bases
    assert [base for base in bases if not re.search(r":[\w.-]+@sha256:[0-9a-f]{64}$", base)] == []


@pytest.mark.parametrize("name", NAMES)
def test_python_packages_come_from_the_hashed_locks_only(name):
    for word, rest in instructions(name):
        for part in rest.split("&&") if word == "RUN" else []:
            if re.search(r"pip (install|sync)", part):
                assert "--require-hashes" in part or "--no-deps --no-build-isolation ." in part, part
        assert word != "ADD"
        assert not re.search(r"\b(curl|wget)\b", rest), rest


@pytest.mark.parametrize("name", NAMES)
def test_it_does_not_run_as_root(name):
    users = [rest for word, rest in instructions(name) if word == "USER"]
    assert users[-1].split(":")[0] not in ("root", "0")


def test_the_server_runs_as_the_user_that_its_pods_ask_for():
    pods = (ROOT / "deploy/policy/base/seldondeployment.yaml").read_text()
    (user,) = [rest for word, rest in instructions("policy-server") if word == "USER"]
    assert f"runAsUser: {user.split(':')[0]}\n" in pods
    assert f"runAsGroup: {user.split(':')[1]}\n" in pods


@pytest.mark.parametrize("name", NAMES)
def test_what_is_copied_is_there_and_in_the_context(name):
    kept = re.findall(r"^!(.+)$", (ROOT / "deploy/images/containerignore").read_text(), flags=re.M)
    for word, rest in instructions(name):
        if word == "COPY" and not rest.startswith("--from"):
            for source in rest.split()[:-1]:
                assert (ROOT / source).exists(), source
                assert any(Path(source).match(pattern) for pattern in kept), source


def test_dependabot_renews_the_digests_of_each():
    text = (ROOT / ".github/dependabot.yml").read_text()
    assert [name for name in NAMES if f"/deploy/images/{name}" not in text] == []
