"""What the pages say, where it comes from, and what they say where something is not there."""

from __future__ import annotations

import html
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from tests.pages.conftest import DAYS, HOSTILE, verdict_of
from tests.release.workshop import Workshop

from sekisho.backtest import labels
from sekisho.checkout import git
from sekisho.cli import main
from sekisho.errors import CannotCheck, Refused
from sekisho.monitoring import kpi_page, words
from sekisho.monitoring.cost import read_cost
from sekisho.monitoring.evidence import markdown
from sekisho.monitoring.kpi import Kpi
from sekisho.monitoring.pages import Sources, write_pages
from sekisho.monitoring.status_page import write_status_page
from sekisho.monitoring.verdict import Alarm, Verdict, parse_verdict
from sekisho.page.blocks import Both, Link, Plain, Table, Text, to_markdown
from sekisho.page.html import to_html
from sekisho.release.manifest import read_manifest
from sekisho.release.revoke import revoke

ROOT = Path(__file__).parents[2]
TITLE = Both("Title", "題")


def text(page: Path) -> str:
    """What stands on a page, in both languages, without its style."""
    body = page.read_text(encoding="utf-8").partition("<main>")[2]
    return html.unescape(re.sub(r"<[^>]*>", " ", body))


@pytest.fixture(scope="session")
def folder(record: Sources, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pages without a report."""
    out = tmp_path_factory.mktemp("pages")
    assert write_pages(record, out) is None
    return out


def test_what_others_wrote_is_text_and_never_markup(folder: Path) -> None:
    for name in ("model", "audit", "verdict"):
        page = (folder / f"{name}.html").read_text(encoding="utf-8")
        assert html.escape(HOSTILE, quote=False) in page
        assert "<script" not in page
        assert not re.search(r'href="(?!https?:)[^"]*:', page)


@pytest.mark.parametrize(
    "href", ["javascript:alert(1)", "data:text/html,x", "//host/x", "JavaScript:x", 'a" onclick="x', ""]
)
def test_a_link_to_what_could_run_leads_nowhere(href: str) -> None:
    page = to_html(TITLE, [Text(Link(Plain("words"), href))])
    assert "<a " not in page
    assert "words" in page


def test_the_model_page_shows_champion_lineage_challenger_and_revocation(
    folder: Path, record: Sources
) -> None:
    shown = text(folder / "model.html")
    manifest, digest = read_manifest(record.repo / "releases/policy/3")
    assert "Model: policy/3 in local" in shown
    assert manifest.created_from.commit[:12] in shown
    assert digest[:12] in shown
    assert "training/" in shown
    assert "retrain/policy" in shown
    assert "1.40" in shown, "the challenger's own Sharpe ratio"
    assert shown.count("revoked") == 1
    assert "rollback to 1: seq 2 loses money" in shown
    assert "+3.60%" in shown, "the live account of the last verdict"
    assert "Verdicts of this release (2)" in shown


def test_a_repository_that_released_nothing_says_so(
    candidate_repo: Path, record: Sources, tmp_path: Path
) -> None:
    shop = Workshop(shutil.copytree(candidate_repo, tmp_path / "repo"))
    write_pages(
        replace(record, repo=shop.repo, trust=shop.trust, verdicts=tmp_path / "none"), tmp_path / "out"
    )
    shown = text(tmp_path / "out/model.html")
    assert "Nothing has been promoted to local yet" in shown
    assert "There is no verdict of this release here yet" in shown
    assert "No unmerged branch here" in shown
    assert "Nothing has been released yet" in shown
    assert "There is no estimate of the cost here" in text(tmp_path / "out/kpi.html")
    assert not (tmp_path / "out/verdict.html").exists()


def test_a_champion_that_does_not_verify_is_shown_as_such(record: Sources, tmp_path: Path) -> None:
    repo = shutil.copytree(record.repo, tmp_path / "repo")
    bundle = repo / "releases/policy/3/bundles/approval.sigstore.json"
    bundle.write_bytes(bundle.read_bytes().replace(b"A", b"B", 1))
    broken = write_pages(replace(record, repo=repo, trust=repo / "trust"), tmp_path / "out")
    assert isinstance(broken, Refused)
    assert "The champion does not verify" in text(tmp_path / "out/model.html")
    assert "approved by" not in text(tmp_path / "out/model.html").partition("Releases")[0]


def test_no_earlier_page_outlives_a_log_whose_chain_is_broken(
    folder: Path, record: Sources, tmp_path: Path
) -> None:
    repo = shutil.copytree(record.repo, tmp_path / "repo")
    out = Path(shutil.copytree(folder, tmp_path / "out"))
    log = repo / "releases/audit.jsonl"
    lines = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(b"".join(lines[:3] + lines[4:]))
    with pytest.raises(Refused, match="audit-chain"):
        write_pages(replace(record, repo=repo, trust=repo / "trust"), out)
    assert list(out.iterdir()) == []


def test_a_revoked_release_bears_no_tick_on_the_audit_page(folder: Path) -> None:
    summaries = re.findall(r"<summary>(.*?)</summary>", (folder / "audit.html").read_text(encoding="utf-8"))
    (revoked,) = [summary for summary in summaries if "policy/2" in summary]
    assert "policy/2 revoked" in revoked
    assert "policy/2 失効" in revoked
    assert "✓" not in revoked


def test_a_page_says_at_which_commit_it_was_read(folder: Path, record: Sources) -> None:
    head = git(record.repo, "rev-parse", "HEAD").decode()[:12]
    for name in ("model", "audit"):
        assert f"Read at commit  {head}  of" in text(folder / f"{name}.html")


def test_a_release_whose_content_is_revoked_under_another_number_is_shown_as_revoked(
    record: Sources, tmp_path: Path
) -> None:
    """Rolling back to it would be refused: the model page may not offer it as verified alone."""
    shop = Workshop(shutil.copytree(record.repo, tmp_path / "repo"))
    revoke(shop.desk, shop.repo / "releases/policy/3", "loses money after all", "local")
    shop.commit("revoked")
    write_pages(replace(record, repo=shop.repo, trust=shop.trust), tmp_path / "out")
    releases = text(tmp_path / "out/model.html").rpartition("Releases")[2]
    assert releases.count("revoked") == 3
    assert "loses money after all" in releases.partition("policy/1")[2]


def test_every_page_leads_to_every_other(site: Path) -> None:
    names = sorted(page.name for page in site.glob("*.html"))
    assert "report.html" in names
    for name in names:
        (menu,) = re.findall(r"<nav>(.*?)</nav>", (site / name).read_text(encoding="utf-8"))
        others = {f"{one}{at}" for one in names if one != name for at in ("", "#ja")}
        assert set(re.findall(r'href="([^"]+)"', menu)) == others
        assert menu.count("aria-current") == 1


def test_a_report_of_another_make_is_laid_as_it_is(record: Sources, tmp_path: Path) -> None:
    (tmp_path / "other.html").write_text("<p>other</p>")
    write_pages(replace(record, report=tmp_path / "other.html"), tmp_path / "out")
    assert (tmp_path / "out/report.html").read_text() == "<p>other</p>"


def test_an_alarms_series_is_said_in_japanese() -> None:
    for english, japanese in {
        "return_1 of SYN1": "SYN1 の return_1",
        "training window ends 2026-06-30": "学習期間の最終日 2026-06-30",
        "fraction of equity lost": "失った資産の割合",
    }.items():
        assert words.series(english) == Both(english, japanese, plain=True)
    assert words.series("stale").ja == "stale", "the guard's verdicts have one name"


def test_the_basis_of_the_prices_is_said_in_japanese() -> None:
    assert read_cost(ROOT).estimate.prices.basis in kpi_page.BASES_JA


def test_markdown_and_page_show_the_same_table_of_alarms(tmp_path: Path) -> None:
    alarm = Alarm("volatility", "return_1 of SYN1", 400.0, 252.0, DAYS[0], "e-detector")
    made = Verdict("policy", 1, "a" * 64, "b" * 64, "alarm", alarms=[alarm], first_session=DAYS[0])
    write_status_page(made, tmp_path / "verdict.html")
    row = ["volatility", "return_1 of SYN1", "e-detector", "400", "252", DAYS[0]]
    row.append("docs/en/runbooks/data-drift.md")
    assert f"| {' | '.join(row)} |" in markdown(made, None)
    shown = text(tmp_path / "verdict.html")
    assert all(cell in shown for cell in (*row, "SYN1 の return_1", "docs/ja/runbooks/data-drift.md"))


def test_a_page_of_what_is_gone_is_taken_away(site: Path, record: Sources, tmp_path: Path) -> None:
    out = Path(shutil.copytree(site, tmp_path / "out"))
    write_pages(replace(record, verdicts=tmp_path / "none"), out)
    assert sorted(path.name for path in out.iterdir()) == ["audit.html", "kpi.html", "model.html"]
    assert "report.html" not in (out / "model.html").read_text()


def test_the_kpi_page_holds_times_against_their_goals(record: Sources, tmp_path: Path) -> None:
    late = {
        "release": "policy/1",
        "at": "2026-07-14T07:30:00+00:00",
        "family": "mean",
        "to_branch": 3600.0,
        "to_merge": 90000.0,
        "to_promotion": 100000.0,
    }
    kpi = Kpi(
        2,
        {"policy/1": 86400.0, "policy/2": 3 * 86400.0},
        2,
        2,
        40 * 86400.0,
        {"policy/1": 7200.0},
        [late],
        86400.0,
    )
    kpi_page.write_kpi_page(kpi, read_cost(ROOT), "production", tmp_path / "kpi.html", [])
    page = (tmp_path / "kpi.html").read_text()
    shown = text(tmp_path / "kpi.html")
    assert "goal: 50% of the 24.0 hours before, 12.0 hours" in shown
    assert '<div class="bad"><dt><span lang="en">lead time' in page
    assert '<div class="bad"><dt><span lang="en">anomaly' in page
    assert "1 of 2" in shown
    kpi = replace(kpi, responses=[late | {"to_promotion": 3600.0}, late | {"to_promotion": None}])
    kpi_page.write_kpi_page(kpi, read_cost(ROOT), "production", tmp_path / "kpi.html", [])
    waiting = (tmp_path / "kpi.html").read_text()
    assert '<div class="warn"><dt><span lang="en">anomaly' in waiting, "one is not promoted yet"
    assert page.count("<svg ") == 4


def test_costs_are_those_of_the_estimate_and_the_budgets(record: Sources, folder: Path) -> None:
    cost = read_cost(record.repo)
    assert cost.month_budget == 12e6
    assert cost.storage_budget == 24e6
    assert f"¥{cost.month('high') / 1e6:.2f} M" in text(folder / "kpi.html")
    assert "not a bill" in text(folder / "kpi.html")


def test_the_command_writes_the_pages_and_tells_of_a_log_that_does_not_hold(
    record: Sources, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repo = shutil.copytree(record.repo, tmp_path / "repo")
    monkeypatch.chdir(repo)
    options = ["pages", "--environment", "local", "--out", "out", "--verdicts", str(record.verdicts)]
    done = CliRunner().invoke(main, options, catch_exceptions=False)
    assert done.output == "pages: out/model.html leads to the others\n"
    shutil.rmtree(repo / "releases/policy/2/bundles")
    done = CliRunner().invoke(main, options, catch_exceptions=False)
    assert done.exit_code == 0
    assert "the audit log does not hold, see out/audit.html" in done.stderr
    assert "audit-missing-evidence" in text(repo / "out/audit.html")


@pytest.mark.parametrize("verb", ["pages", "kpi"])
@pytest.mark.parametrize("options", [["--environment", "prod"], ["--baseline", "-3"], ["--baseline", "0"]])
def test_an_environment_or_a_baseline_that_cannot_be_is_refused(verb: str, options: list[str]) -> None:
    done = CliRunner().invoke(main, [verb, *options])
    assert done.exit_code == 2
    assert f"Invalid value for '{options[0]}'" in done.stderr


@pytest.mark.parametrize("option", ["--verdicts", "--report"])
def test_what_is_named_and_not_there_is_refused(
    record: Sources, option: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(record.repo)
    done = CliRunner().invoke(main, ["pages", option, "mistyped"])
    assert done.exit_code == 2
    assert "mistyped is not there" in done.stderr


def test_a_verdict_of_no_time_is_none() -> None:
    written = Verdict("policy", 1, "a" * 64, "b" * 64, "ok", checked_at="yesterday").to_json()
    with pytest.raises(CannotCheck, match="not a verdict"):
        parse_verdict(written.encode(), "verdict.json")


def test_a_verdict_names_every_family_that_raised_an_alarm() -> None:
    """A retraining may come of the second: a headline of the first alone names the wrong cause."""
    days = ("2026-07-13", "2026-07-21")
    first = Alarm("correlation", "return_3 of SYN4", 334.0, 252.0, days[0], "e-detector")
    last = Alarm("performance", "CUSUM", 9.4, 7.5, days[1], "CUSUM")
    made = Verdict(
        "policy", 1, "a" * 64, "b" * 64, "alarm", alarms=[first, first, last], first_session=days[0]
    )
    assert words.sentence(made).en.endswith("; also performance")
    assert words.sentence(made).ja.endswith("。ほかに運用成績のアラームあり")
    assert "also" not in words.sentence(replace(made, alarms=[first, first])).en
    unread = replace(made, state="cannot-judge", alarms=[], problems=["one", "two"])
    assert "(ほか 1 件)" in words.sentence(unread).ja


def test_the_verdicts_page_holds_every_figure_in_both_languages(record: Sources, tmp_path: Path) -> None:
    made = replace(verdict_of(record.repo / "releases/policy/3", 10), excluded={DAYS[3]: HOSTILE})
    write_status_page(made, tmp_path / "verdict.html")
    shown = text(tmp_path / "verdict.html")
    assert "largest difference 0" in shown
    assert "最大の差 0" in shown
    assert "10 立会日で +3.60%。バックテストの範囲の下端は -2.00%" in shown
    assert re.search(rf"left out\s+{DAYS[3]}", shown)
    assert HOSTILE in shown


def test_a_moment_is_in_utc_and_said_to_be() -> None:
    assert words.minute("2026-07-14T16:30:00+09:00") == "2026-07-14 07:30Z"
    assert words.minute(None) == "–"


def test_everything_that_a_verdict_can_say_is_said_in_japanese() -> None:
    from sekisho.monitoring.alarms import RUNBOOKS

    assert set(words.NAMES_JA) >= set(RUNBOOKS)
    assert set(words.ACTIONS_JA) == set(words.ACTIONS)


def test_markdown_shows_paragraphs_and_twofold_tables_in_both_languages() -> None:
    rows = [[Both("cash", "現金"), "1"]]
    blocks = [Text(Both("One.", "一。")), Table([Both("what", "項目"), ""], rows, twofold=True)]
    shown = to_markdown(blocks)
    assert "One.\n\n一。" in shown
    assert "| cash<br>現金 | 1 |" in shown
    assert "| cash | 1 |" in to_markdown([Table([Both("what", "項目"), ""], rows)])


def test_what_a_label_holds_is_said_in_japanese_too() -> None:
    assert labels.japanese("Backtest report: ❌ not passed") == "バックテストレポート: ❌ 不合格"
    assert labels.japanese("the same over momentum") == "モメンタムに対する同じ検定"
    assert labels.japanese("2024-03-13 to 2024-04-09") == "2024-03-13〜2024-04-09"
    assert labels.japanese("SYN4") is None


def test_a_label_without_japanese_is_found_out() -> None:
    with pytest.raises(KeyError, match="no Japanese for 'new'"):
        labels.both("new")
