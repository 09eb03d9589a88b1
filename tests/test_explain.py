"""`sekisho explain`: every name that people meet is explained from the documents, in both languages."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from docs.reference import commands, params
from docs.rules import metrics, refusals, server_metrics
from docs.words import Words

from sekisho import errors
from sekisho.backtest.gate import judge
from sekisho.cli import main
from sekisho.data.contract import RULES
from sekisho.errors import CannotCheck
from sekisho.explain import LANGUAGES, Entry, explain, find_documents, read_entries
from sekisho.forge.grammar import KINDS
from sekisho.params import load_params
from sekisho.serving.guard import Reason

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def entries() -> dict[str, list[Entry]]:
    return {language: read_entries(ROOT / "docs", language) for language in LANGUAGES}


def gate_rules() -> list[str]:
    figures = [metrics(name) for name in ("backtest", "trials", "lookahead")]
    return [rule.rule for rule in judge(*figures, load_params(ROOT / "params.yaml").gate)]


def alerts() -> list[str]:
    rules = yaml.safe_load((ROOT / "deploy/monitoring/rules.yml").read_text(encoding="utf-8"))
    return [rule["alert"] for group in rules["groups"] for rule in group["rules"] if "alert" in rule]


NAMES = {
    "a rule of the gate": gate_rules(),
    "a rule that refuses": sorted(refusals(Words("en").refusals)),
    "a rule of the data": [*(rule.name for rule in RULES), "structure", "gap", "overlap", "missing-session"],
    "an alert": alerts(),
    "an error": [
        name
        for name, one in vars(errors).items()
        if isinstance(one, type) and issubclass(one, errors.SekishoError)
    ][1:],
    "an exit code": [f"exit code {code}" for code in (0, 1, 2, 75, 130)],
    "a parameter": [f"{section}.{name}" for section, name, said in params() if said],
    "a command": [f"sekisho {name}" for name, _ in commands(main)],
    "a comment's command": [f"/{name}" for name in KINDS],
    "a workflow": [path.name for path in (ROOT / ".github/workflows").glob("*.yml")],
    "a term": ["deflated Sharpe ratio", "champion", "kill switch", "ゲート", "切り戻し"],
    "a metric": [name for name, _, _ in server_metrics()] + Words("en").metrics,
    "a verdict of the guard": [str(reason) for reason in Reason],
    "a series": ["sekisho_log_lost_total", "sekisho_decision_seconds_bucket"],
    "a figure": ["agent.sharpe", "pbo", "folds[].sharpe", "lead time"],
}


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("kind", NAMES)
def test_what_the_project_names_is_explained(entries, kind, language):
    for name in NAMES[kind]:
        assert any(entry.text for entry in explain(entries[language], name)), name


def test_both_languages_explain_the_same_names(entries):
    keys = [set().union(*(entry.keys for entry in entries[language])) for language in LANGUAGES]
    assert {name for name in keys[0] ^ keys[1] if name.isascii()} == set()


def test_an_alert_comes_with_its_runbook_and_a_rule_with_its_reason(entries):
    halted = explain(entries["en"], "halted")
    assert "desk" in halted[0].text
    assert (ROOT / halted[1].page).read_text(encoding="utf-8").endswith(halted[1].text + "\n")
    said = explain(entries["ja"], "deflated-sharpe-ratio")
    assert {entry.page for entry in said} == {
        "docs/ja/reference/gate.md", "docs/ja/why.md", "docs/glossary.md",
    }  # fmt: skip
    assert all("試行" in entry.text for entry in said)


@pytest.mark.parametrize("name", ["max_pbo", "MAX PBO", "gate.max_pbo", "parameter gate.max-pbo"])
def test_a_name_is_found_however_it_is_spelled(entries, name):
    assert [entry.name for entry in explain(entries["en"], name)] == ["gate.max_pbo"]


def test_an_unknown_name_ends_with_2_and_suggests_the_nearest(entries):
    with pytest.raises(CannotCheck) as unknown:
        explain(entries["en"], "aproval-time")
    assert unknown.value.exit_code == 2
    assert "did you mean approval-time" in unknown.value.remedy
    with pytest.raises(CannotCheck, match="no document explains '§§§'"):
        explain(entries["en"], "§§§")


def suggested(entries: list[Entry], name: str) -> list[str]:
    with pytest.raises(CannotCheck) as unknown:
        explain(entries, name)
    said = unknown.value.remedy.partition("did you mean ")[2].partition("? ")[0]
    return said.split(", ") if said else []


@pytest.mark.parametrize(
    ("misspelt", "meant"),
    [
        ("aproval-time", "approval-time"),
        ("haltd", "halted"),
        ("max_pb0", "gate.max_pbo"),
        ("cannot-jugde", "cannot-judge"),
        ("promte", "/promote"),
        ("conformence", "make conformance"),
        ("cooldown_session", "monitoring.cooldown_sessions"),
        ("kill-swich", "kill switch 緊急停止"),
        ("champoin", "opening.champion"),
        ("lead tme", "lead time"),
        ("sekisho driftcheck", "sekisho drift check"),
    ],
)
def test_a_misspelt_name_is_suggested_first_and_few_beside_it(entries, misspelt, meant):
    found = suggested(entries["en"], misspelt)
    assert found[0] == meant
    assert len(found) <= 3


@pytest.mark.parametrize(
    "word",
    ["banana", "foo", "kubernetes", "xyzzy", "tensorflow", "password", "hello world", "1234", "quantum", "a"],
)
def test_a_word_of_another_world_brings_no_guess(entries, word):
    assert suggested(entries["en"], word) == []


def test_the_beginning_of_a_word_of_a_name_finds_it(entries):
    assert suggested(entries["en"], "latency") == [
        "latency-burn-fast", "latency-burn-session", "latency-burn-slow", "market.latency_bars",
    ]  # fmt: skip
    assert suggested(entries["ja"], "切戻し") == ["rollback 切り戻し"]


def test_the_documents_are_those_of_the_checkout_around_one_and_else_of_the_installation(tmp_path):
    inner = tmp_path / "clone/src"
    shutil.copytree(ROOT / "docs/en/reference", tmp_path / "clone/docs/en/reference")
    inner.mkdir()
    assert find_documents(inner) == tmp_path / "clone/docs"
    assert find_documents(tmp_path) == ROOT / "docs"
    with pytest.raises(CannotCheck, match="no documents here") as alone:
        find_documents(tmp_path, tmp_path / "site-packages/sekisho/explain.py")
    assert "checkout" in alone.value.remedy


@pytest.mark.parametrize(
    ("words", "environment", "said"),
    [
        ([], {"LANG": "ja_JP.UTF-8"}, "承認"),
        ([], {"LANG": "ja_JP.UTF-8", "LC_ALL": "C.UTF-8"}, "approved"),
        (["--lang", "ja"], {"LANG": "C"}, "承認"),
    ],
)
def test_the_language_is_the_terminals_unless_one_is_asked_for(words, environment, said):
    none = {"LC_ALL": None, "LC_MESSAGES": None, "LANG": None}
    done = CliRunner().invoke(main, ["explain", "approval-time", *words], env=none | environment)
    assert done.exit_code == 0
    assert said in done.stdout


def test_programs_get_the_same_as_one_document():
    done = CliRunner().invoke(main, ["explain", "approval-time", "--lang", "en", "--json"])
    (entry,) = json.loads(done.stdout)
    assert entry["page"] == "docs/en/reference/errors.md"
    listed = CliRunner().invoke(main, ["explain", "--json"])
    assert {"approval-time", "halted", "gate.max_pbo"} <= {
        entry["name"] for entry in json.loads(listed.stdout)
    }
