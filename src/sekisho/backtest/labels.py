"""Japanese of what the report writes in headings, tables and figures, looked up by its English."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial

from sekisho.backtest.words import STRATEGIES_JA
from sekisho.page.blocks import Both, Cell, Heading, Paper, Table, Text

EXACT = {
    **STRATEGIES_JA,
    "**agent**": "**エージェント**",
    "agent": "エージェント",
    # headings
    "Gate": "ゲート",
    "Results after costs": "コスト控除後の結果",
    "Luck and selection": "偶然と選択",
    "Cost sensitivity": "コストへの感度",
    "Capacity": "キャパシティ",
    "Regimes": "相場の局面",
    "Attribution": "損益の内訳",
    "Test windows": "テスト期間",
    "Seeds": "乱数シード",
    "How it traded": "売買のしかた",
    "Learning": "学習",
    "Record": "記録",
    # heads of tables
    "strategy": "戦略",
    "Sharpe ratio": "シャープレシオ",
    "net Sharpe ratio": "コスト控除後シャープレシオ",
    "return a year": "年率リターン",
    "net return a year": "コスト控除後の年率リターン",
    "volatility a year": "年率ボラティリティ",
    "max drawdown": "最大ドローダウン",
    "turnover a session": "1日の売買回転率",
    "costs a year": "年率コスト",
    "gross exposure": "総エクスポージャー",
    "figure": "指標",
    "value": "値",
    "meaning": "意味",
    "what": "項目",
    "parameter": "パラメータ",
    "capital": "資金",
    "multiple": "倍数",
    "volatility before": "直前のボラティリティ",
    "market": "相場",
    "sessions": "営業日数",
    "return": "リターン",
    "buy-and-hold return": "買い持ちのリターン",
    "symbol": "銘柄",
    "before costs": "コスト控除前",
    "costs": "コスト",
    "after costs": "コスト控除後",
    "mean |weight|": "平均 |ウェイト|",
    "Sharpe ratio (return a year)": "シャープレシオ(年率リターン)",
    "window": "期間",
    "trained until": "学習の最終日",
    "tested": "テスト",
    "seed": "シード",
    # rows
    "trials": "試行回数",
    "agents trained so far, this one included, by git history": (
        "git の履歴から数えた、今回を含む学習済みエージェントの数"
    ),
    "expected best of so many without skill": "実力がない場合に期待される最良値",
    "probabilistic Sharpe ratio": "確率的シャープレシオ",
    "chance that the true ratio is above zero, were this the only trial": (
        "試行がこれだけなら、真の値がゼロを上回る確率"
    ),
    "deflated Sharpe ratio": "デフレーテッド・シャープレシオ",
    "the same, given all trials": "同じ確率を、全試行の数で割り引いたもの",
    "minimum track record": "必要な最短の実績",
    "probability of backtest overfitting": "バックテスト過学習の確率",
    "the same among the trials alone": "試行のみで求めた同じ確率",
    "about 0.5 where all are noise, and also where all are equally good": (
        "すべてがノイズの場合も、すべてが同程度に良い場合も、約 0.5 になります"
    ),
    "superior predictive ability over cash": "現金に対する優越予測能力(SPA)",
    "p-value: no trial is better than cash (Hansen 2005)": "「現金を上回る試行はない」の p 値(Hansen 2005)",
    "p-value: no trial is better than the best baseline at equal risk": (
        "「同じリスクで最良のベースラインを上回る試行はない」の p 値"
    ),
    "calm": "平穏",
    "normal": "通常",
    "turbulent": "荒れ",
    "up": "上昇",
    "down": "下落",
    "candidate (sha256 of its models)": "候補(モデルの sha256)",
    "training result": "学習結果",
    "sampling": "標本誤差",
    "seeds": "シード",
    "champion": "現行モデル",
    "test sessions opened": "開示したテスト営業日",
    "delisted in the test windows": "テスト期間中の上場廃止",
    # captions
    "Loss from the highest equity so far, after all costs.": (
        "それまでの最高資産からの下落。すべてのコストを控除した後。"
    ),
    "Annual return against costs, as multiples of the modelled ones.": (
        "コスト(モデルのコストに対する倍数)と年率リターン。"
    ),
    "The agent's net Sharpe ratio and annual return against capital, with the impact of its own trades.": (
        "資金の大きさと、エージェントのコスト控除後シャープレシオ、年率リターン。自らの売買のインパクトを含む。"
    ),
    "Annualised net Sharpe ratio by volatility before the session and by whether the market then rose.": (
        "直前のボラティリティと、その日の相場の上げ下げで分けた年率シャープレシオ。"
    ),
    "Each symbol's part of the agent's return: before costs, and what is left after them.": (
        "エージェントの損益に占める各銘柄の寄与。コスト控除前と控除後。"
    ),
    "The agent's turnover and gross exposure in each session.": (
        "各営業日のエージェントの売買回転率と総エクスポージャー。"
    ),
    "The agent's mean weight in each asset and session.": "各営業日・各銘柄のエージェントの平均ウェイト。",
    "Equity after all costs of agents trained from each seed.": (
        "各シードから学習したエージェントの資産。すべてのコストを控除した後。"
    ),
    "Annualised net Sharpe ratio on the validation window during training; the best agent is kept.": (
        "学習中の検証期間での年率シャープレシオ。最良のエージェントを残します。"
    ),
    # in figures
    "equity after costs, start = 1": "コスト控除後の資産(開始時 = 1)",
    "session (vertical lines: a new test window with fresh capital)": (
        "営業日(縦線: 新しいテスト期間、資金は初期値から)"
    ),
    "session": "営業日",
    "drawdown, % of equity": "ドローダウン(資産比 %)",
    "Sharpe ratio a year,": "年率シャープレシオ",
    "costs, multiple of the modelled ones": "コスト(モデルに対する倍数)",
    "annual return, %": "年率リターン(%)",
    "Sharpe ratio (left)": "シャープレシオ(左)",
    "annual return (right)": "年率リターン(右)",
    "capital, multiple of market.capital": "資金(market.capital に対する倍数)",
    "net Sharpe ratio a year": "年率シャープレシオ(コスト控除後)",
    "net annual return, %": "コスト控除後の年率リターン(%)",
    "market up": "相場が上昇",
    "market down": "相場が下落",
    "volatility before the session, terciles of the training window": (
        "直前のボラティリティ(学習期間での三分位)"
    ),
    "sum of returns over the test windows, % of equity": "テスト期間のリターンの合計(資産比 %)",
    "turnover a session,": "1 営業日の売買回転率",
    "× equity": "(資産に対する倍数)",
    "gross exposure,": "総エクスポージャー",
    "sum of |weights|": "(|ウェイト| の合計)",
    "weight (fraction of equity)": "ウェイト(資産に対する割合)",
    "candidate (first seed)": "候補(最初のシード)",
    "samples, million": "サンプル数(百万)",
    "validation": "検証期間の",
    "Sharpe ratio a year": "年率シャープレシオ",
}

# with figures and names inside; what a group holds is looked up too
PATTERNS = [
    (r"Backtest report: (\S+) not passed", r"バックテストレポート: \1 不合格"),
    (r"Backtest report: (\S+) passed", r"バックテストレポート: \1 合格"),
    (
        r"Equity after all costs, starting capital = 1\. Shaded: (.*) bootstrap interval of the agent\.",
        r"すべてのコストを控除した資産(開始時 = 1)。塗りつぶし: エージェントの \1 ブートストラップ区間。",
    ),
    (
        r"Annualised net Sharpe ratio over the last (\d+) sessions\.",
        r"直近 \1 営業日のコスト控除後の年率シャープレシオ。",
    ),
    (r"agent, (.*) interval", r"エージェントの \1 区間"),
    (r"last (\d+) sessions", r"(直近 \1 営業日)"),
    (r" capacity (.*)", r" キャパシティ \1"),
    (r"([\d,]+) sessions", r"\1 営業日"),
    (r"mean of (\d+) sessions", r"\1 営業日の平均"),
    (r"seed (\d+)", r"シード \1"),
    (r"window (\d+)", r"期間 \1"),
    (r"(.*%) interval", r"\1 区間"),
    (r"([\d.]+) × costs", r"コスト \1 倍"),
    (r"(\S+) to (\S+)", r"\1〜\2"),
    (r"data: (.*)", r"データ: \1"),
    (r"Parameters of this run \((\d+)\)", r"この実行のパラメータ(\1 個)"),
    (r"Sums over the test windows by symbol \((\d+)\)", r"テスト期間の銘柄別合計(\1 銘柄)"),
    (
        r"Sharpe ratio a year; variance between trials from (.*)",
        r"年率シャープレシオ。試行間の分散の出どころ: \1",
    ),
    (
        r"needed to be (.*) sure that the ratio is above zero",
        r"\1 の確かさでゼロを上回ると言うのに必要な長さ",
    ),
    (
        r"over the (\d+) with returns on these sessions and the baselines, which could have been picked as "
        r"well, without the (\d+) trials that were better; 0\.5 is a coin's",
        r"この営業日のリターンがある \1 試行と、選ばれ得たベースラインから求め、より良かった \2 試行を除く。"
        r"0.5 はコイン投げと同じ",
    ),
    (r"the same over (.*)", r"\1に対する同じ検定"),
    (
        r"⚠️ More than half of the profit comes from one symbol, (.*)\.",
        r"⚠️ 利益の半分超が一つの銘柄 \1 から生じています。",
    ),
    (
        r"⚠️ There is no git history here, so only this trial is counted\. (.*)",
        r"⚠️ ここには git の履歴がないため、この試行だけを数えています。\1",
    ),
    (
        r"⚠️ This clone lacks commits or branches: trials in them are not counted\. (.*)",
        r"⚠️ このクローンには一部のコミットやブランチがなく、そこでの試行は数えていません。\1",
    ),
]
EXACT["The deflated Sharpe ratio may flatter the agent."] = (
    "デフレーテッド・シャープレシオは実際より良く見えることがあります。"
)


def japanese(english: str) -> str | None:
    """None where it says nothing in a language: a figure, a symbol, a digest."""
    if english in EXACT:
        return EXACT[english]
    for pattern, said in PATTERNS:
        if found := re.fullmatch(pattern, english):
            groups = [EXACT.get(group, group) for group in found.groups()]
            return re.sub(r"\\(\d)", partial(_group, groups), said)
    return None


def _group(groups: list[str], place: re.Match[str]) -> str:
    return groups[int(place[1]) - 1]


def both(english: str) -> Both:
    """
    Raises:
        KeyError: nobody has said it in Japanese yet.
    """
    found = japanese(english)
    if found is None:
        raise KeyError(f"sekisho.backtest.labels: no Japanese for {english!r}")
    return Both(english, found)


def translated(block: Paper) -> Paper:
    """The block with its labels in both languages; a cell that says nothing in a language stands as it is.

    Raises:
        KeyError: as :func:`both`, of a heading, a paragraph, a table's head or summary.
    """
    match block:
        case Heading(str(text), level):
            return Heading(both(text), level)
        case Text(str(text)):
            return Text(both(text))
        case Table(header, rows, folded=folded):
            return replace(
                block,
                header=[both(cell) if isinstance(cell, str) and cell else cell for cell in header],
                rows=[[_either(cell) for cell in row] for row in rows],
                folded=both(folded) if isinstance(folded, str) and folded else folded,
            )
    return block


def _either(cell: Cell) -> Cell:
    found = japanese(cell) if isinstance(cell, str) else None
    return cell if found is None else Both(str(cell), found)
