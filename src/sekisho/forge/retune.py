"""``/retrain key=value …``: parameters for a pull request, checked as data, written into params.yaml.

A value is a number, a word or a list of them: what a shell, YAML or Markdown could take for more is refused
before anything reads it. The file keeps its comments; what it then says is read back and compared.
"""

from __future__ import annotations

import re
from typing import Any

from pydantic import ValidationError
from ruamel.yaml import YAML

from sekisho.errors import CannotCheck, Refused
from sekisho.forge.markdown import quoted
from sekisho.params import Params, lookup, parse_yaml

PAIR = re.compile(r"([a-z][a-z0-9_]{0,39}\.[a-z][a-z0-9_]{0,59})=([A-Za-z0-9_.+,\[\]-]{1,200})")
LINE = re.compile(r"(\s*[a-z][a-z0-9_]*:\s+)(.*?)(\s+#.*|\s*)")
# what is judged (with its data, costs and windows) and what runs in production is changed in a reviewed
# commit, not by a comment that trains
NOT_TRAINED = (
    "data", "market", "split", "backtest", "gate", "release", "serving", "monitoring", "forge",
)  # fmt: skip


def read_changes(text: str) -> dict[str, Any]:
    """``ppo.epochs=3 train.seeds=[1,2]`` -> value by dotted key.

    Raises:
        Refused: not of that form, a key twice, or a section that judges or runs what is trained.
    """
    changes: dict[str, Any] = {}
    for word in text.split():
        match = PAIR.fullmatch(word)
        if match is None or match[1] in changes:
            raise _refused(
                "section.key=value once a key, the value a number, a word or [a,list] without spaces", word
            )
        if match[1].split(".")[0] in NOT_TRAINED:
            raise _refused(f"a parameter outside {', '.join(NOT_TRAINED)}", word)
        changes[match[1]] = _value(match[2], word)
    return changes


def with_changes(raw: bytes, changes: dict[str, Any]) -> bytes:
    """The text of ``params.yaml`` with these values; every other line stays as it is.

    Raises:
        Refused: an unknown key, a value of another type or out of range.
        CannotCheck: the file is not one that can be edited so.
    """
    before = parse_yaml(raw)
    for key, value in changes.items():
        old = lookup(before, key)
        if old is None:
            raise _refused("a key of params.yaml", key)
        if not _same_kind(old, value):
            raise _refused(f"{key} as {type(old).__name__}, like {old!r}", str(value))
    wanted = {section: dict(values) for section, values in before.items()}
    for key, value in changes.items():
        section, _, name = key.partition(".")
        wanted[section][name] = value
    try:
        Params.model_validate(wanted)
    except ValidationError as error:
        first = error.errors()[0]
        raise _refused(f"{'.'.join(map(str, first['loc']))}: {first['msg']}", str(first["input"])) from error
    lines = raw.decode().split("\n")
    places = YAML().load(raw)  # the round-trip reader knows where each key stands
    for key, value in changes.items():
        section, _, name = key.partition(".")
        number = places[section].lc.key(name)[0]
        match = LINE.fullmatch(lines[number])
        if match:
            lines[number] = f"{match[1]}{_written(value).ljust(len(match[2]))}{match[3]}"
    text = "\n".join(lines).encode()
    if parse_yaml(text) != wanted:
        raise CannotCheck(
            "params.yaml holds a parameter on more than one line", remedy="change it in a commit"
        )
    return text


def _value(text: str, word: str) -> Any:
    try:
        return parse_yaml(text.encode())
    except Exception as error:
        raise _refused("a value that can be read", word) from error


def _written(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_written, value))}]"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _same_kind(old: Any, new: Any) -> bool:
    if isinstance(old, list):
        kind = float if any(isinstance(item, float) for item in old) else type(old[0]) if old else object
        return isinstance(new, list) and all(_is(kind, item) for item in new)
    return _is(type(old), new)


def _is(kind: type, value: Any) -> bool:
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, kind) and isinstance(value, bool) == (kind is bool)


def _refused(expected: str, found: str) -> Refused:
    return Refused(
        "commands.parameter",
        expected=expected,
        found=quoted(found),
        remedy="see the keys, units and ranges in params.yaml; nothing was changed",
    )
