"""The documents list all there is, say the same in both languages, and no link in them is dead."""

from __future__ import annotations

import operator
import re
from pathlib import Path

import click
import pytest
import yaml
from docs.reference import LANGUAGES, render
from docs.rules import metrics, refusals
from docs.site import menu
from docs.words import Words

from sekisho.backtest.gate import judge
from sekisho.cli import VERBS, main
from sekisho.params import load_params

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
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


def prose(text: str) -> str:
    """A page without its code."""
    return re.sub(r"```.*?```|`[^`\n]*`", "`", text, flags=re.DOTALL)


def headings(text: str) -> list[str]:
    return re.findall(r"^(#+) ", re.sub(r"```.*?```", "", text, flags=re.DOTALL), flags=re.MULTILINE)


def first_columns(text: str) -> list[str]:
    """What tables name in code in their first column."""
    return re.findall(r"^\| (`[^|]*(?:\\\|[^|]*)*`)", text, flags=re.MULTILINE)


def code(text: str) -> list[str]:
    """Fenced blocks, without their comments: those may be in the reader's language."""
    blocks = re.findall(r"^ *```[a-z]*\n.*?```", text, flags=re.MULTILINE | re.DOTALL)
    return [re.sub(r"\s+#.*", "", block) for block in blocks]


def links(text: str) -> list[str]:
    """Where links lead, without the language and the anchor, which is a translated heading."""
    targets = re.findall(r"\]\(([^)\s]+)\)", prose(text))
    return sorted(re.sub(r"((\.\./)+)(en|ja)/|README\.ja|#.*", "", target) for target in targets)


def pages(language: str) -> list[str]:
    return sorted(path.relative_to(DOCS / language).as_posix() for path in DOCS.glob(f"{language}/**/*.md"))


def test_every_page_is_there_in_both_languages():
    assert pages("en") == pages("ja")


@pytest.mark.parametrize("part", [headings, first_columns, code, links], ids=lambda part: part.__name__)
@pytest.mark.parametrize("name", pages("ja"))
def test_a_page_has_the_same_parts_in_japanese(name, part):
    assert part(page("ja", name)) == part(page("en", name))


def test_the_readmes_have_the_same_parts():
    texts = [(ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "README.ja.md")]
    for part in (headings, code):
        assert part(texts[0]) == part(texts[1])


# a word that readers meet for an idea that has a term in docs/glossary.md
NEVER = {"安全行動": "安全動作", "セッション": "立会日", "手順書": "ランブック", "切戻し": "切り戻し"}


@pytest.mark.parametrize("name", pages("ja"))
def test_a_japanese_page_uses_the_glossarys_terms(name):
    assert {word: term for word, term in NEVER.items() if word in page("ja", name)} == {}


def anchors(path: Path) -> set[str]:
    """Of a page's headings, as GitHub and the site make them."""
    titles = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


MARKDOWN = sorted([*DOCS.rglob("*.md"), *ROOT.glob("*.md")])


@pytest.mark.parametrize("path", MARKDOWN, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_link_is_dead(path):
    dead = []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(path.read_text(encoding="utf-8"))):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        there = path.parent / name if name else path
        if not there.exists() or (anchor and anchor not in anchors(there)):
            dead.append(target)
    assert dead == []


def test_the_reference_is_that_of_the_code_and_all_of_it_is_in_japanese():
    """Verbs, options, parameters, make targets, workflows, alerts, gate rules, figures, errors."""
    words = {language: Words(language) for language in LANGUAGES}
    files = render(words)
    assert words["ja"].missing == []
    assert words["ja"].unused == set(), "docs/words.yaml translates what the code no longer says"
    stale = [path.name for path, text in files.items() if path.read_text(encoding="utf-8") != text]
    assert stale == [], "make docs-reference"


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_page_of_the_gate_says_which_side_of_a_limit_passes(language):
    sides = re.findall(r"^\| [^|]+ \| ([≤≥>]) ", page(language, "reference/gate.md"), flags=re.MULTILINE)
    figures = [metrics(name) for name in ("backtest", "trials", "lookahead")]
    rules = judge(*figures, load_params(ROOT / "params.yaml").gate)
    passes = {"≤": operator.le, "≥": operator.ge, ">": operator.gt}
    assert len(sides) == len(rules)
    for side, rule in zip(sides, rules, strict=True):
        if rule.figure is not None:
            assert passes[side](rule.figure, rule.limit) == rule.passed, rule.rule


def test_every_metric_of_the_exporter_is_told_of_and_no_other():
    """Its names are written out in lines of text, but for those of figures, which begin alike."""
    source = (ROOT / "src/sekisho/monitoring/exporter.py").read_text(encoding="utf-8")
    written = set(re.findall(r"[f]?[\"']((?:sekisho|market)_\w+)", source))
    told = Words("en").metrics
    assert {name for name in told if not name.startswith("sekisho_live_")} == written - {"sekisho_live_"}


def test_every_metric_that_an_alert_asks_for_is_told_of():
    rules = (ROOT / "deploy/monitoring/rules.yml").read_text(encoding="utf-8")
    asked = {
        re.sub(r"_(total|bucket|count|sum)$", "", name)
        for name in re.findall(r"\b(?:sekisho|market)_\w+", rules)
    }
    told = set(first_columns(page("en", "reference/metrics.md")))
    assert {name for name in asked if f"`{name}`" not in told and ":" not in name} == set()


def test_what_each_rule_that_refuses_makes_sure_of_is_said_and_no_other():
    words = Words("en")
    assert set(refusals(words.refusals)) == words.refusals


def test_the_glossary_gives_each_term_and_its_meaning_in_both_languages():
    rows = re.findall(r"^\| (.*) \|$", (DOCS / "glossary.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert {len([cell for cell in row.split(" | ") if cell.strip()]) for row in rows} == {4}


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_verb_and_alert_has_its_place(language):
    told = re.findall(r"^## sekisho ([a-z-]+)", page(language, "reference/cli.md"), flags=re.MULTILINE)
    assert set(told) == set(VERBS)
    linked = re.findall(r"\.\./runbooks/([a-z-]+)\.md", page(language, "reference/alerts.md"))
    assert set(linked) == {path.stem for path in (DOCS / language / "runbooks").glob("*.md")}


def test_the_menu_of_the_site_names_every_page():
    for language in LANGUAGES:
        assert "…" not in {title for section in menu(DOCS, language) for title in section}
