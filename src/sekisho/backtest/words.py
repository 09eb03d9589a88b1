"""The report's first paragraph, in words a trader uses: English and Japanese, both made from the figures."""

from __future__ import annotations

import math
from typing import Any

STRATEGIES_JA = {
    "cash": "現金",
    "buy-and-hold": "等ウェイト買い持ち",
    "momentum": "モメンタム",
    "minimum-variance": "最小分散",
    "champion": "現行モデル",
}
RULES_JA = {
    "net Sharpe ratio, lower bound": "コスト控除後シャープレシオの下限",
    "deflated Sharpe ratio": "デフレーテッド・シャープレシオ",
    "trials counted from full history": "全履歴からの試行回数の集計",
    "Sharpe ratio at double cost": "コスト 2 倍でのシャープレシオ",
    "maximum drawdown": "最大ドローダウン",
    "turnover a session": "1 営業日の売買回転率",
    "seeds agree (lowest Sharpe ratio)": "乱数シード間の一致",
    "beats the champion": "現行モデルを上回る",
} | {f"beats {name}": f"{japanese}を上回る" for name, japanese in STRATEGIES_JA.items()}


def summary_english(metrics: dict[str, Any], gate: dict[str, Any]) -> str:
    """What it made after costs, how sure that is, whether it passed and why not."""
    agent, window = metrics["agent"], metrics["window"]
    count = len(metrics["folds"])
    scope = (
        f"Over {window['sessions']} sessions from {window['first']} to {window['last']}, in "
        f"{count} test window{'s' if count > 1 else ''} kept out of training,"
    )
    if agent["turnover"] == 0:
        result = f"{scope} **the agent did not trade**: it held cash throughout."
    else:
        interval = f"{number(agent['sharpe_low'])} to {number(agent['sharpe_high'])}"
        result = (
            f"{scope} the agent **{_made(agent['total_return'])} after all costs** "
            f"({percent(agent['annual_return'])} a year; before costs "
            f"{percent(agent['annual_return_gross'])} a year). Its Sharpe ratio is {number(agent['sharpe'])} "
            f"({percent(metrics['confidence'], 0)} interval {interval}); the worst loss from a high was "
            f"{percent(agent['max_drawdown'])}. {_earns(agent)}"
        )
    best = best_baseline(metrics)
    found = metrics["baselines"][best]
    compared = (
        f"The best baseline, {best}, {_made(found['total_return'])} with a Sharpe ratio of "
        f"{number(found['sharpe'])}. At double costs the agent's annual return is "
        f"{percent(agent['annual_return_by_cost'].get('2'))}."
    )
    rules = gate["rules"]
    failed = [rule["rule"] for rule in rules if not rule["passed"]]
    if failed:
        reasons = "; ".join(failed)
        verdict = f"**It does not pass the gate**: {len(failed)} of {len(rules)} rules fail ({reasons})."
    else:
        verdict = f"**It passes the gate**: all {len(rules)} rules hold."
    return f"{result} {compared} {verdict}"


def summary_japanese(metrics: dict[str, Any], gate: dict[str, Any]) -> str:
    """The same in Japanese."""
    agent, window = metrics["agent"], metrics["window"]
    scope = (
        f"{window['first']} から {window['last']} までの {window['sessions']} 営業日"
        f"（学習に使っていない {len(metrics['folds'])} つのテスト期間）で、"
    )
    if agent["turnover"] == 0:
        result = f"{scope}**エージェントは一度も売買せず**、現金のままでした。"
    else:
        net, gross = agent["annual_return"], agent["annual_return_gross"]
        interval = f"{number(agent['sharpe_low'])}〜{number(agent['sharpe_high'])}"
        result = (
            f"{scope}エージェントの損益は**すべてのコストを差し引いて "
            f"{percent(agent['total_return'], sign=True)}** でした（年率 {percent(net, sign=True)}、"
            f"コスト控除前は年率 {percent(gross, sign=True)}）。"
            f"シャープレシオは {number(agent['sharpe'])}"
            f"（{percent(metrics['confidence'], 0)} 信頼区間 {interval}）、"
            f"最大ドローダウンは {percent(agent['max_drawdown'])} です。{_earns_japanese(agent)}"
        )
    best = best_baseline(metrics)
    found = metrics["baselines"][best]
    double = percent(agent["annual_return_by_cost"].get("2"), sign=True)
    compared = (
        f"最も良いベースラインは「{STRATEGIES_JA[best]}」で、"
        f"損益 {percent(found['total_return'], sign=True)}、シャープレシオ {number(found['sharpe'])} でした。"
        f"コストが 2 倍になると、エージェントの年率リターンは {double} です。"
    )
    rules = gate["rules"]
    failed = [RULES_JA.get(rule["rule"], rule["rule"]) for rule in rules if not rule["passed"]]
    if failed:
        reasons = "、".join(failed)
        verdict = (
            f"**ゲートは不合格**です。{len(rules)} 項目のうち {len(failed)} 項目を満たしません（{reasons}）。"
        )
    else:
        verdict = f"**ゲートは合格**です。{len(rules)} 項目をすべて満たします。"
    return result + compared + verdict


def best_baseline(metrics: dict[str, Any]) -> str:
    """The baseline with the highest Sharpe ratio."""
    ratios: dict[str, float | None] = {name: found["sharpe"] for name, found in metrics["baselines"].items()}
    return max(ratios, key=lambda name: -math.inf if (ratio := ratios[name]) is None else ratio)


def _earns(agent: dict[str, Any]) -> str:
    if agent["annual_return_gross"] <= 0:
        return "**The agent does not earn its costs: it lost money even before them.**"
    if agent["total_return"] <= 0:
        return "**The agent does not earn its costs: what it gained, trading took away.**"
    if agent["sharpe_low"] is None or agent["sharpe_low"] <= 0:
        return "The interval holds zero: this profit cannot be told from luck."
    return "The interval lies above zero."


def _earns_japanese(agent: dict[str, Any]) -> str:
    if agent["annual_return_gross"] <= 0:
        return "**コストを賄えていません。コストを引く前から損失です。**"
    if agent["total_return"] <= 0:
        return "**コストを賄えていません。得た利益は売買コストで失われました。**"
    if agent["sharpe_low"] is None or agent["sharpe_low"] <= 0:
        return "区間がゼロを含むため、この利益は偶然と区別できません。"
    return "区間はゼロを上回ります。"


def _made(total: float) -> str:
    return f"made {percent(total)}" if total >= 0 else f"lost {percent(-total)}"


def percent(value: float | None, digits: int = 1, *, sign: bool = False) -> str:
    """A fraction as a percentage; – where there is none."""
    return "–" if value is None else f"{100.0 * value:{'+' if sign else ''},.{digits}f}%"


def number(value: float | None, digits: int = 2) -> str:
    """A figure to so many decimals; – where there is none."""
    return "–" if value is None else f"{value:,.{digits}f}"
