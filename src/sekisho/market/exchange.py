"""The exchange's rules for one fill: whole lots, the tick grid, daily price limits, the volume there is.

All of them depend on the bar and the asset only, never on the account, so they are laid out once, as arrays
``(T, A)``; see `fill_rules`.

Tables of the Tokyo Stock Exchange: tick sizes from its Business Regulations, Rule 14 (in force since 5 June
2023, when the finer table came to hold for all TOPIX 500 constituents); daily price limits from JPX, *Trading
Rules of Domestic Stocks: Daily Price Limits*, https://www.jpx.co.jp/english/equities/trading/domestic/06.html.
The widening of a limit after two sessions without trade is not modelled: such bars are rare and have no
volume.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sekisho.params import MarketParams

Float = npt.NDArray[np.float64]

TICK_UP_TO = (1e3, 3e3, 5e3, 1e4, 3e4, 5e4, 1e5, 3e5, 5e5, 1e6, 3e6, 5e6, 1e7, 3e7, 5e7)  # yen, inclusive
TICKS = {  # yen; the last one holds above the last price
    "topix500": (0.1, 0.5, 1, 1, 5, 10, 10, 50, 100, 100, 500, 1e3, 1e3, 5e3, 1e4, 1e4),
    "other": (1, 1, 5, 10, 10, 50, 100, 100, 500, 1e3, 1e3, 5e3, 1e4, 1e4, 5e4, 1e5),
}
LIMIT_BELOW = (  # yen, exclusive
    *(100, 200, 500, 700, 1e3, 1.5e3, 2e3, 3e3, 5e3, 7e3, 1e4, 1.5e4, 2e4, 3e4, 5e4, 7e4, 1e5),
    *(1.5e5, 2e5, 3e5, 5e5, 7e5, 1e6, 1.5e6, 2e6, 3e6, 5e6, 7e6, 1e7, 1.5e7, 2e7, 3e7, 5e7),
)
LIMIT_WIDTH = (  # yen; the last one holds from the last price on
    *(30, 50, 80, 100, 150, 300, 400, 500, 700, 1e3, 1.5e3, 3e3, 4e3, 5e3, 7e3, 1e4, 1.5e4),
    *(3e4, 4e4, 5e4, 7e4, 1e5, 1.5e5, 3e5, 4e5, 5e5, 7e5, 1e6, 1.5e6, 3e6, 4e6, 5e6, 7e6, 1e7),
)
# relative: a price adjusted back and forth is on the grid, three lots less a rounding error are three
SLACK = 1e-9


@dataclass(frozen=True)
class FillRules:
    """What an order meets at each bar, all ``(T, A)``; units and prices are the adjusted ones of the bars.

    ``buy_slip``, ``sell_slip``: how far the price is rounded against a buyer, a seller, as a fraction of the
    open. ``lot``: units of one lot; 1 where any amount may be traded. ``most_buy``, ``most_sell``: whole lots
    (or units) that may be bought, sold; infinite where nothing limits them, 0 where trading is impossible.
    """

    buy_slip: Float
    sell_slip: Float
    lot: Float
    most_buy: Float
    most_sell: Float


def tick_size(price: Float, table: str) -> Float:
    """Tick in yen at raw prices of any shape; ``table`` is a key of `TICKS`."""
    return np.asarray(TICKS[table])[np.searchsorted(TICK_UP_TO, price * (1 - SLACK), side="left")]


def limit_width(base: Float) -> Float:
    """Largest move in yen within one session from a raw base price of any shape, up or down."""
    return np.asarray(LIMIT_WIDTH)[np.searchsorted(LIMIT_BELOW, base * (1 + SLACK), side="right")]


def base_prices(close: Float, session: npt.NDArray[np.datetime64]) -> Float:
    """The last close before each bar's session ``(T, A)``; NaN in the first session.

    Of adjusted closes these are, divided by the bar's own factor, the base prices that the exchange sets: it
    too takes a dividend or a split off the last close.
    """
    first = np.searchsorted(session, session)  # (T,) first bar of the bar's session
    return np.where((first > 0)[:, None], close[np.maximum(first - 1, 0)], np.nan)


def fill_rules(
    open_: Float,
    close: Float,
    volume: Float,
    adj_factor: Float,
    tradable: npt.NDArray[np.bool_],
    session: npt.NDArray[np.datetime64],
    params: MarketParams,
) -> FillRules:
    """The rules at each bar's open; adjusted prices are raw prices × ``adj_factor``.

    No row depends on a later one.
    """
    raw = open_ / adj_factor
    buy_slip = sell_slip = np.zeros_like(raw)
    if params.tick_table != "none":
        ticks = tick_size(raw, params.tick_table)
        buy_slip = np.maximum(np.ceil(raw / ticks - SLACK) * ticks / raw - 1.0, 0.0)
        sell_slip = np.maximum(1.0 - np.floor(raw / ticks + SLACK) * ticks / raw, 0.0)
    may_buy = may_sell = tradable
    if params.price_limits == "tokyo":
        base = base_prices(close, session) / adj_factor
        width = limit_width(base)
        # a comparison with NaN, in the first session, is false: no base price, no limit
        may_buy = np.logical_and(tradable, ~(raw >= (base + width) * (1 - SLACK)))
        may_sell = np.logical_and(tradable, ~(raw <= (base - width) * (1 + SLACK)))
    lot = params.lot_size / adj_factor if params.lot_size else np.ones_like(raw)
    most = np.full_like(raw, np.inf)
    if params.max_participation:
        most = params.max_participation * volume / lot
        most = np.floor(most * (1 + SLACK)) if params.lot_size else most
    return FillRules(
        buy_slip=buy_slip,
        sell_slip=sell_slip,
        lot=lot,
        most_buy=np.where(may_buy, most, 0.0),
        most_sell=np.where(may_sell, most, 0.0),
    )
