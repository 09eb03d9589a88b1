"""The audit page: releases, facts, approvals, promotions and the log in one self-contained HTML file."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sekisho.checkout import git
from sekisho.errors import SekishoError
from sekisho.page.blocks import Block, Both, Cell, Fold, Heading, Plain, Table, Text, Words
from sekisho.page.html import Page, to_html
from sekisho.pointer import read_pointer
from sekisho.release import audit
from sekisho.release.audit_check import check_log
from sekisho.release.trace import table, trace_releases

TITLE = Both("Release audit", "リリース監査")
NONE_YET = Both("none yet", "まだなし")
JAPANESE = {  # what a trace's rows are called
    "verified under": "検証に使った信頼ポリシー",
    "warning": "注意",
    "release": "リリース",
    "rollback": "切り戻し",
    "content": "内容物",
    "revoked": "失効",
    "commit": "コミット",
    "pull request": "プルリクエスト",
    "author": "作成者",
    "approver": "承認者",
    "reviewed": "レビュー対象",
    "promoted": "昇格",
    "promote to local": "local へ昇格",
    "promote to staging": "ステージングへ昇格",
    "promote to production": "本番へ昇格",
    "rollback to local": "local で切り戻し",
    "rollback to staging": "ステージングで切り戻し",
    "rollback to production": "本番で切り戻し",
    "soak": "ソーク(試用)",
    "data": "データ",
    "train window": "学習期間",
    "validation window": "検証期間",
    "test window": "テスト期間",
    "parameters": "パラメータ",
    "figures": "数値",
    "seeds": "乱数シード",
    "gate": "ゲート",
    "signed provenance": "署名: 来歴",
    "signed evaluation": "署名: 評価",
    "signed data": "署名: データ",
    "signed approval": "署名: 承認",
    "signed deployment": "署名: 配備",
    "event export": "記録: 書き出し",
    "event sign": "記録: 署名",
    "event promote": "記録: 昇格",
    "event rollback": "記録: 切り戻し",
    "event revoke": "記録: 失効",
    "event renew": "記録: 失効リストの更新",
    "not verified": "検証できない",
}


def write_page(
    repo: Path, trust: Path, environment: str | None, out: Path, menu: Iterable[Page] = ()
) -> SekishoError | None:
    """Write the page for everything under ``releases/``; what does not verify is shown with its reason.

    Returns why the log does not hold, None if it does: the page is there to be read in either case.
    """
    return write_traced(repo, trace_releases(repo, trust, environment), out, menu)


def write_traced(
    repo: Path, traces: dict[Path, dict[str, Any] | SekishoError], out: Path, menu: Iterable[Page]
) -> SekishoError | None:
    """As :func:`write_page`, of releases traced already (:func:`trace.trace_releases`)."""
    broken: SekishoError | None = None
    try:
        head = check_log(repo)
        held = f"{head.lines} lines, head `sha256:{head.sha256}`"
        held_ja = f"{head.lines} 行、末尾 `sha256:{head.sha256}`"
        state = [
            Text(
                Both(
                    f"✅ The audit log is **unbroken**: {held}.",
                    f"✅ 監査ログは**途切れていません**。{held_ja}。",
                )
            )
        ]
    except SekishoError as error:
        broken = error
        state = [
            Text(Both("❌ **The audit log does not hold.**", "❌ **監査ログが成り立ちません。**")),
            Text(Plain(str(error))),
        ]
    none: Block = Text(Both("Nothing has been released yet.", "まだ何もリリースされていません。"))
    shown: list[Block] = [_release(folder, trace) for folder, trace in traces.items()]
    blocks = [
        Heading(TITLE, 1),
        read_at(repo),
        *state,
        *_environments(repo),
        Heading(Both("Releases", "リリース")),
        *(shown or [none]),
        *_log(repo),
    ]
    audit.write_atomically(out, to_html(TITLE, blocks, menu, out.name).encode())
    return broken


def read_at(repo: Path) -> Text:
    """The commit that a page was made at: one kept or sent on does not pass for today's."""
    commit, day = git(repo, "show", "--no-patch", "--format=%H %cs", "HEAD").decode().split()
    return Text(
        Both(f"Read at commit `{commit[:12]}` of {day}.", f"{day} のコミット `{commit[:12]}` で読んだもの。")
    )


def _environments(repo: Path) -> list[Block]:
    rows: list[list[Cell]] = []
    for path in sorted((repo / "deploy/policy").glob("*/release.env")):
        pointer = read_pointer(repo, path.parent.name)
        rows.append([Plain(path.parent.name), Plain(str(pointer)) if pointer else NONE_YET])
    header = [Both("environment", "環境"), Both("release", "リリース")]
    return [Heading(Both("Environments", "環境")), Table(header, rows, left=frozenset({0, 1}))]


def _release(folder: Path, trace: dict[str, Any] | SekishoError) -> Fold:
    name = f"{folder.parent.name}/{folder.name}"
    if isinstance(trace, SekishoError):
        digest, rows = "", [("not verified", str(trace))]
        title = Both(f"❌ {name} not verified", f"❌ {name} 検証できません")
    else:
        digest, rows = trace["release"]["manifest_digest"], table(trace)
        title = (
            Both(f"✅ {name} verified", f"✅ {name} 検証済み")
            if trace["release"]["revoked"] == "no"
            else Both(f"❌ {name} revoked", f"❌ {name} 失効")
        )
    cells: list[list[Cell]] = [[_called(what), Plain(value)] for what, value in rows]
    header = [Both("what", "項目"), Both("evidence", "証拠")]
    return Fold(title, [Table(header, cells, left=frozenset({0, 1}))], digest)


def _called(what: str) -> Words:
    return Both(what, JAPANESE[what]) if what in JAPANESE else Plain(what)


def _log(repo: Path) -> list[Block]:
    events, _ = audit.read_log(repo / "releases")
    rows: list[list[Cell]] = [
        [
            str(event.line),
            f"{event.at:%Y-%m-%d %H:%M:%S}Z",
            _event(event.event),
            Plain(event.actor),
            Plain(f"{event.model}/{event.seq}" if event.model else ""),
            Plain(_details(event.details)),
        ]
        for event in reversed(events)
    ]
    header = [
        Both("line", "行"),
        Both("time", "時刻"),
        Both("event", "記録"),
        Both("actor", "実行者"),
        Both("release", "リリース"),
        Both("details", "詳細"),
    ]
    none: Block = Text(Both("The log holds no event yet.", "ログにはまだ何もありません。"))
    shown: Block = Table(header, rows, left=frozenset(range(1, 6))) if rows else none
    return [Heading(Both("Log", "ログ")), shown]


def _event(name: str) -> Both:
    return Both(name, JAPANESE[f"event {name}"].removeprefix("記録: "))


def _details(details: dict[str, Any]) -> str:
    return "; ".join(f"{key}: {value}" for key, value in details.items() if key != "bundles")
