"""Every error a user can meet: what is wrong, where, and what to do about it.

Exit codes: 0 done · 1 judged and refused · 2 could not be done or could not be checked (bad input, bad
parameters, missing tools) · 75 told to end while training, what was done is saved, a store that does not
answer, or a full disk: start it again (EX_TEMPFAIL of sysexits.h). An error while checking is never a pass.
"""

from __future__ import annotations

import errno

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # of a disk without space: another machine may have some


class SekishoError(Exception):
    """Base of all errors meant for people; the CLI prints ``message`` and ``remedy``, never a traceback."""

    exit_code = 2

    def __init__(self, message: str, *, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message}\n  remedy: {self.remedy}" if self.remedy else self.message


class ParamsError(SekishoError):
    """``params.yaml`` has an unknown key, a wrong type or a value out of range."""


class DataError(SekishoError):
    """Bars break the contract: names the file, the row or the symbol and time, and the rule."""


class StoreError(DataError):
    """A store does not answer or has no space: it may pass, and the same call goes on from what it holds."""

    exit_code = 75


class TrainingError(SekishoError):
    """Training cannot go on: non-finite loss or reward, a window too short, a broken checkpoint."""


class Interrupted(SekishoError):
    """Training was told to end (SIGTERM, as a spot instance's notice comes) or lost a process: the same call
    goes on from the newest checkpoint."""

    exit_code = 75


class BacktestError(SekishoError):
    """The backtest cannot be run or judged: missing window, no trades data, degenerate returns."""


class CannotCheck(SekishoError):
    """A check could not be carried out (missing file, unreadable log, expired trust root). Never a pass."""


class Refused(SekishoError):
    """A rule was checked and broken: names the rule, what was expected and what was found."""

    exit_code = 1

    def __init__(self, rule: str, *, expected: object, found: object, remedy: str) -> None:
        super().__init__(f"refused by rule {rule}: expected {expected}, found {found}", remedy=remedy)
        self.rule = rule
        self.expected = expected
        self.found = found


def require_same(rule: str, expected: object, found: object, remedy: str) -> None:
    """Refuse by ``rule`` unless the two are equal."""
    if expected != found:
        raise Refused(rule, expected=expected, found=found, remedy=remedy)


class ForgeError(SekishoError):
    """The forge (GitHub or the local one) did not do what was asked, after the retries."""
