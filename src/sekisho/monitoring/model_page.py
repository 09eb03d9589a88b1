"""The model page: what is in an environment, where it came from, how it does there, what competes with it.

Everything on it is read from git, ``releases/``, the audit log and verdicts; what is not there is said so.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sekisho.backtest.words import number, percent
from sekisho.errors import SekishoError
from sekisho.monitoring import lineage
from sekisho.monitoring.alarms import alarms
from sekisho.monitoring.evidence import plot_of
from sekisho.monitoring.origin import Traces, chain, changes
from sekisho.monitoring.verdict import Verdict
from sekisho.monitoring.words import STATES, action, minute, sentence
from sekisho.page.blocks import (
    Block,
    Both,
    Cell,
    Heading,
    Link,
    Plain,
    State,
    Table,
    Text,
    Tile,
    Tiles,
    Words,
)
from sekisho.page.canvas import picture
from sekisho.page.html import Page, to_html
from sekisho.pointer import Pointer, read_pointer
from sekisho.release.audit import Event, read_log, write_atomically
from sekisho.release.audit_page import read_at

TITLE = Both("Model", "モデル")
SHOWN = 20  # verdicts in the table
STATE: dict[str, State] = {"ok": "good", "alarm": "bad", "cannot-judge": "warn"}


@dataclass(frozen=True)
class Seen:
    """What the page is made from; ``verdicts`` are the champion's, oldest first."""

    repo: Path
    environment: str
    pointer: Pointer | None
    traces: Traces
    events: list[Event]
    revoked: dict[str, list[lineage.Revocation]]
    challengers: list[lineage.Challenger]
    verdicts: list[Verdict]

    def champion(self, pointer: Pointer) -> dict[str, Any] | Words:
        """Its trace, or why it is not verified."""
        trace = self.traces.get(self.repo / "releases" / pointer.model / str(pointer.seq))
        if trace is None:
            return Both("releases/ does not hold it", "releases/ にありません")
        if isinstance(trace, SekishoError):
            return Plain(str(trace))
        if (found := trace["release"]["manifest_digest"]) != pointer.digest:
            return Both(
                f"releases/ holds another one, `sha256:{found}`",
                f"releases/ には別のもの `sha256:{found}` があります",
            )
        return trace


def look(repo: Path, trust: Path, environment: str, traces: Traces, verdicts: Iterable[Verdict]) -> Seen:
    """Read what the page shows.

    Raises:
        CannotCheck: not a git checkout, or a file of the record cannot be read.
        Refused: the audit log's chain is broken.
    """
    events, _ = read_log(repo / "releases")
    pointer = read_pointer(repo, environment)
    own = [one for one in verdicts if pointer and one.manifest_digest == pointer.digest]
    return Seen(
        repo,
        environment,
        pointer,
        traces,
        events,
        lineage.revocations(trust, events),
        lineage.challengers(repo),
        sorted(own, key=lambda one: str(one.checked_at)),
    )


def write_model_page(seen: Seen, out: Path, menu: Sequence[Page]) -> None:
    """Write the page, whole or not at all."""
    write_atomically(out, to_html(TITLE, list(_blocks(seen, menu)), menu, out.name).encode())


def _blocks(seen: Seen, menu: Sequence[Page]) -> Iterator[Block]:
    where = seen.environment
    name = f"{seen.pointer.model}/{seen.pointer.seq}" if seen.pointer else None
    shown = (f"{name} in {where}", f"{where} の {name}") if name else (where, where)
    yield Heading(Both(f"Model: {shown[0]}", f"モデル: {shown[1]}"), 1)
    yield read_at(seen.repo)
    if seen.pointer is None:
        yield Text(
            Both(
                f"Nothing has been promoted to {where} yet: there is no champion.",
                f"{where} にはまだ何も昇格していません。現行モデルはありません。",
            )
        )
    elif not isinstance(trace := seen.champion(seen.pointer), dict):
        yield Text(
            (Both("❌ **The champion does not verify.**", "❌ **現行モデルを検証できません。**"), trace)
        )
    else:
        yield from _champion(seen, trace)
        yield Heading(Both("Where it came from", "来歴"))
        yield chain(seen.repo, seen.events, trace)
        yield from changes(seen.repo, seen.traces, trace)
    yield Heading(Both("Live against the backtest, and drift", "実運用とバックテストの比較、ドリフト"))
    yield from _live(seen, menu)
    yield Heading(Both("Challengers", "挑戦モデル"))
    yield from _challengers(seen)
    yield Heading(Both("Releases", "リリース"))
    yield from _releases(seen)


def _champion(seen: Seen, trace: dict[str, Any]) -> Iterator[Block]:
    figures, approval, deployed = trace["metrics"]["figures"], trace["approval"], trace["deployment"]
    gate = trace["metrics"]["gate_passed"]
    low, high = number(figures.get("sharpe_low")), number(figures.get("sharpe_high"))
    last = seen.verdicts[-1] if seen.verdicts else None
    revoked = trace["release"]["revoked"] != "no"
    yield Tiles(
        [
            Tile(
                Both("signatures", "署名"),
                Both("revoked", "失効") if revoked else Both("verified", "検証済み"),
                Plain(trace["release"]["revoked"])
                if revoked
                else Both(
                    f"{len(trace['signatures'])} facts, under the trust policy of {seen.environment}",
                    f"{len(trace['signatures'])} 件の証明、{seen.environment} の信頼ポリシーで検証",
                ),
                "bad" if revoked else "good",
            ),
            Tile(
                Both("net Sharpe ratio in the backtest", "バックテストのシャープレシオ(コスト控除後)"),
                number(figures.get("sharpe")),
                Both(
                    f"interval {low} to {high}; gate {'passed' if gate else 'failed'}",
                    f"区間 {low}〜{high}、ゲート{'合格' if gate else '不合格'}",
                ),
                "good" if gate else "bad",
            ),
            Tile(
                Both("state", "状態"),
                STATES[last.state] if last else Both("not checked yet", "未確認"),
                Both(f"checked {minute(last.checked_at)}", f"確認 {minute(last.checked_at)}")
                if last
                else Both("no verdict of this release here", "このリリースの判定はここにありません"),
                STATE[last.state] if last else "",
            ),
            Tile(
                Both("approved by", "承認者"),
                Plain(", ".join(one["person"] for one in approval["approvers"])),
                Both(f"written by {approval['author']}", f"作成者 {approval['author']}", plain=True),
            ),
            Tile(
                Both("in force until", "有効期限"),
                Plain(str(deployed["expires"])[:10]) if deployed else Both("never promoted", "昇格なし"),
                Both(f"promoted by {deployed['actor']}", f"昇格の実行者 {deployed['actor']}", plain=True)
                if deployed
                else "",
            ),
        ]
    )


def _live(seen: Seen, menu: Sequence[Page]) -> Iterator[Block]:
    if not seen.verdicts:
        yield Text(
            Both(
                "There is no verdict of this release here yet: `sekisho drift check` gives one after each "
                "session.",
                "このリリースの判定はまだありません。`sekisho drift check` が立会日ごとに判定します。",
            )
        )
        return
    last = seen.verdicts[-1]
    yield Text(sentence(last))
    yield Text(action(last))
    if last.performance:
        yield _account(last)
    else:
        yield Text(
            Both(
                "The live account was not measured in the last check.",
                "最後の確認では実運用の口座を測っていません。",
            )
        )
    if last.levels:
        yield picture(plot_of(last))
    if last.alarms:
        yield alarms(last)
    rows: list[list[Cell]] = [
        [Plain(minute(one.as_of or one.checked_at)), STATES[one.state], Plain(one.action), sentence(one)]
        for one in reversed(seen.verdicts[-SHOWN:])
    ]
    header = [Both("as of", "時点"), Both("state", "状態"), Both("action", "対応"), Both("verdict", "判定")]
    count = len(seen.verdicts)
    folded = Both(f"Verdicts of this release ({count})", f"このリリースの判定({count} 件)")
    yield Table(header, rows, left=frozenset(range(4)), folded=folded)
    status = [page for page in menu if page.file == "verdict.html"]
    yield from (
        Text(Link(Both("The last verdict in full", "最後の判定の全体"), page.file)) for page in status
    )


def _account(verdict: Verdict) -> Tiles:
    found = verdict.performance
    under = found["net_return"] < found["band_low"]
    loud, band = found["cusum"] > found["cusum_limit"], f"{found['band_low']:+.2%}"
    return Tiles(
        [
            Tile(
                Both("live, net of costs", "実運用(コスト控除後)"),
                f"{found['net_return']:+.2%}",
                Both(
                    f"in {found['sessions']} sessions; the backtest's band begins at {band}",
                    f"{found['sessions']} 立会日。バックテストの範囲の下端は {band}",
                ),
                "bad" if under else "good",
            ),
            Tile(
                Both("largest drawdown", "最大ドローダウン"),
                percent(found["drawdown"], 2),
                Both(
                    f"worst session {found['worst_session']:+.2%}",
                    f"最悪の立会日 {found['worst_session']:+.2%}",
                ),
            ),
            Tile(
                Both("shortfall against the backtest (CUSUM)", "バックテストに対する不足(CUSUM)"),
                f"{found['cusum']:.3g}",
                Both(f"limit {found['cusum_limit']:.3g}", f"基準 {found['cusum_limit']:.3g}"),
                "bad" if loud else "good",
            ),
            Tile(
                Both("live minus replayed model", "実運用 − 再現したモデル"),
                f"{found['live_minus_replay']:+.3%}",
                Both("what guard, safe actions and faults cost", "ガード、安全動作、障害で失った分"),
            ),
        ]
    )


def _challengers(seen: Seen) -> Iterator[Block]:
    if not seen.challengers:
        yield Text(
            Both(
                "No unmerged branch here has results of its own.",
                "独自の結果を持つ未マージのブランチはありません。",
            )
        )
        return
    rows: list[list[Cell]] = []
    for one in seen.challengers:
        over = one.over_champion
        interval = f"{number(one.agent.get('sharpe_low'))} – {number(one.agent.get('sharpe_high'))}"
        less = [number(over.get(key)) for key in ("sharpe", "sharpe_low", "sharpe_high")]
        beside = f"{less[0]} ({less[1]} – {less[2]})"
        passed = one.gate.get("passed")
        rows.append(
            [
                (Plain(one.branch), f"`{one.commit.sha[:12]}`"),
                "–"
                if passed is None
                else Both("✅ passed", "✅ 合格")
                if passed
                else Both("❌ failed", "❌ 不合格"),
                number(one.agent.get("sharpe")),
                interval,
                beside if over else "–",
                percent(one.agent.get("max_drawdown")),
                (Plain(one.commit.subject), Plain(f"{one.commit.author}, {one.commit.at[:10]}")),
            ]
        )
    header = [
        Both("branch", "ブランチ"),
        Both("gate", "ゲート"),
        Both("Sharpe ratio", "シャープレシオ"),
        Both("interval", "区間"),
        Both("less the champion's", "現行との差"),
        Both("max drawdown", "最大ドローダウン"),
        Both("last commit", "最後のコミット"),
    ]
    yield Table(header, rows, left=frozenset({0, 1, 6}))
    yield Text(
        Both(
            "As their branches have it: only the gate's run on a reviewed head decides.",
            "各ブランチにある結果です。レビューされた先頭コミットでのゲートの実行だけが決め手になります。",
        )
    )


def _releases(seen: Seen) -> Iterator[Block]:
    if not seen.traces:
        yield Text(Both("Nothing has been released yet.", "まだ何もリリースされていません。"))
        return
    rows: list[list[Cell]] = [_release(seen, folder, trace) for folder, trace in seen.traces.items()]
    header = [
        Both("release", "リリース"),
        Both("state", "状態"),
        Both("written by", "作成者"),
        Both("approved by", "承認者"),
        Both("Sharpe ratio", "シャープレシオ"),
        Both("promoted", "昇格"),
    ]
    yield Table(header, rows, left=frozenset({0, 1, 2, 3, 5}))


def _release(seen: Seen, folder: Path, trace: dict[str, Any] | SekishoError) -> list[Cell]:
    name = f"{folder.parent.name}/{folder.name}"
    if isinstance(trace, SekishoError):
        return [Plain(name), Both("❌ not verified", "❌ 検証できません"), "–", "–", "–", Plain(str(trace))]
    digest, approval = trace["release"]["manifest_digest"], trace["approval"]
    promoted: list[Words] = [
        Plain(f"{event.details.get('environment')}, {event.at:%Y-%m-%d}")
        for event in lineage.promotions(seen.events, digest)
    ]
    return [
        Link(Plain(name), "audit.html"),
        tuple(_states(seen, trace, digest)),
        Plain(approval["author"]),
        tuple(Plain(f"{one['person']}, {one['approved_at'][:10]}") for one in approval["approvers"]),
        number(trace["metrics"]["figures"].get("sharpe")),
        tuple(promoted) or Both("not yet", "まだ"),
    ]


def _states(seen: Seen, trace: dict[str, Any], digest: str) -> Iterator[Words]:
    yield Both("✅ verified", "✅ 検証済み")
    if seen.pointer and digest == seen.pointer.digest:
        yield Both(f"**champion** in {seen.environment}", f"{seen.environment} の**現行モデル**")
    if back := trace["release"]["rollback"]:
        yield Both(
            f"rollback to {back['seq']}: {back['reason']}",
            f"{back['seq']} へ切り戻し: {back['reason']}",
            plain=True,
        )
    named = seen.revoked.get(digest, [])
    if not named and trace["release"]["revoked"] != "no":  # as another release of the same content
        yield Both("❌ revoked", "❌ 失効")
        yield Plain(trace["release"]["revoked"])
    for one in named:
        yield Both("❌ revoked", "❌ 失効")
        yield Plain(f"{one.environment}, {one.at:%Y-%m-%d}: {one.reason}")
