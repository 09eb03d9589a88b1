"""The pages about workflows and commands list all there are, in both languages."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest
import yaml

from sekisho.cli import VERBS, main

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
LANGUAGES = ("en", "ja")
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))


def page(language: str, name: str) -> str:
    return (DOCS / language / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_page_of_workflows_lists_each_once_and_no_other(language):
    listed = re.findall(r"^\| `([a-z]+\.yml)` \|", page(language, "workflows.md"), flags=re.MULTILINE)
    assert sorted(listed) == [path.name for path in WORKFLOWS]


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_name_that_a_workflow_takes_from_githubs_settings_is_in_the_list_to_set_up(language):
    text = "\n".join(path.read_text() for path in WORKFLOWS)
    names = set(re.findall(r"(?:vars|secrets)\.([A-Z_]+)", text))
    listed = set(re.findall(r"`([A-Z][A-Z_]+)`", page(language, "workflows.md")))
    assert names == listed


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_settings_that_keep_a_forks_code_from_our_machines_are_in_the_list_to_set_up(language):
    """A pull request's run takes its own workflow files: no condition in them keeps anything out."""
    said = page(language, "workflows.md")
    assert "*Run workflows from fork pull requests*" in said
    assert "*Send write tokens to workflows*" in said
    assert "*Require approval for all external contributors*" in said
    for text in (ROOT / "deploy/argocd/platform.yaml").read_text().split("githubConfigUrl: ")[1:]:
        assert text.startswith("https://github.com/sekisho/sekisho\n"), "a repository's own runners"


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_environment_of_a_job_is_in_the_list_to_set_up(language):
    environments = set()
    for path in WORKFLOWS:
        for job in yaml.safe_load(path.read_text())["jobs"].values():
            name = job.get("environment", "bot")
            environments |= {"staging", "production"} if "${{" in name else {name}
    assert {name for name in environments if f"`{name}`" not in page(language, "workflows.md")} == set()


def commands(group: click.Group, *words: str) -> list[str]:
    """Every command under a group, as it is typed."""
    found = []
    for name, command in group.commands.items():
        deeper = isinstance(command, click.Group)
        found += commands(command, *words, name) if deeper else [" ".join([*words, name])]
    return found


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("verb", ["pr", "repo"])
def test_the_page_of_commands_lists_every_command_of_the_forge_and_no_other(language, verb):
    group = main.get_command(click.Context(main), verb)
    assert isinstance(group, click.Group)
    depth = 2 if verb == "pr" else 3
    shown = re.findall(rf"`sekisho ({verb}(?: [a-z]+){{{depth - 1}}})", page(language, "commands.md"))
    assert set(shown) == set(commands(group, verb))


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_verb_is_told_of_that_is_not_there(language):
    shown = re.findall(r"`sekisho ([a-z][a-z-]*)", page(language, "commands.md"))
    assert set(shown) <= set(VERBS)


def shape(text: str) -> list[tuple[str, str]]:
    """What both languages share: headings' levels, and what tables name in code in their first column."""
    lines = re.findall(r"^(#+) |^\| (`[^|]*(?:\\\|[^|]*)*`)", text, flags=re.MULTILINE)
    return [(level, code) for level, code in lines]


def pages(language: str) -> list[str]:
    return sorted(path.relative_to(DOCS / language).as_posix() for path in DOCS.glob(f"{language}/**/*.md"))


def test_the_pages_of_the_daily_work_are_there_in_both_languages():
    daily = {"commands.md", "workflows.md", *(name for name in pages("en") if name.startswith("runbooks/"))}
    assert daily <= set(pages("ja"))
    assert set(pages("ja")) <= set(pages("en"))


@pytest.mark.parametrize("name", pages("ja"))
def test_a_page_has_the_same_shape_in_japanese(name):
    assert shape(page("ja", name)) == shape(page("en", name))
