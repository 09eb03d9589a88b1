"""The repository's own rules as data: ``.github/rulesets/*.json``, shown, compared with GitHub and applied.

The files are what GitHub's API takes for a ruleset. https://docs.github.com/rest/repos/rules
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

from sekisho.errors import CannotCheck
from sekisho.forge.rest import Json, Rest

FIELDS = ("name", "target", "enforcement", "bypass_actors", "conditions", "rules")
KEYS = ("type", "context", "actor_id")  # by which the members of a list are told apart, first that is there


def read_rules(folder: Path) -> list[Json]:
    """The rulesets of the files, by name.

    Raises:
        CannotCheck: no file, a file that is not JSON, a field missing or unknown, a name given twice.
    """
    found: dict[str, Json] = {}
    for path in sorted(folder.glob("*.json")):
        try:
            rules = json.loads(path.read_text(encoding="utf-8"))
            wrong = sorted({*rules} ^ {*FIELDS}) or [rules["name"]] * (rules["name"] in found)
        except (ValueError, TypeError, KeyError) as error:
            raise CannotCheck(
                f"{path}: not a ruleset: {error}", remedy="see GitHub's API for rules"
            ) from error
        if wrong:
            raise CannotCheck(
                f"{path}: missing, unknown or given twice: {', '.join(wrong)}",
                remedy=f"state each of {', '.join(FIELDS)} once, and every ruleset in one file",
            )
        found[rules["name"]] = rules
    if not found:
        raise CannotCheck(f"{folder}: no ruleset (*.json)", remedy="run from the repository's root")
    return list(found.values())


def fetch_rules(rest: Rest) -> list[Json]:
    """The repository's rulesets on GitHub, whole.

    Raises:
        CannotCheck: GitHub does not show this account who may bypass them.
    """
    listed = rest.pages("/rulesets", {"includes_parents": "false"})
    found: list[Json] = [rest.ask("GET", f"/rulesets/{raw['id']}").json() for raw in listed]
    for rules in found:
        if "bypass_actors" not in rules:
            raise CannotCheck(
                f"GitHub does not show who may bypass the ruleset {rules['name']!r}",
                remedy="use a token with the permission administration: write",
            )
    return found


def differences(wanted: list[Json], found: list[Json]) -> list[str]:
    """What GitHub has otherwise than the files, one line each; a ruleset of which no file knows is one too.

    A field that the files do not state counts only where GitHub has it on (neither false nor empty).
    """
    lines = []
    here, there = ({rules["name"]: rules for rules in side} for side in (wanted, found))
    lines += [f"{name}: not on GitHub" for name in here if name not in there]
    lines += [f"{name}: on GitHub, but in no file" for name in there if name not in here]
    for name in [name for name in here if name in there]:
        ours = _flat({field: here[name][field] for field in FIELDS})
        theirs = _flat({field: there[name].get(field) for field in FIELDS})
        for key in sorted({*ours, *theirs}):
            one, other = ours.get(key), theirs.get(key)
            if one != other and (key in ours or other):
                lines.append(f"{name}: {key}: the file says {_shown(one)}, GitHub {_shown(other)}")
    return lines


def apply_rules(rest: Rest, wanted: list[Json]) -> list[str]:
    """Create and change rulesets until GitHub has what the files say; what was done, one line each.

    A ruleset of which no file knows is left alone: GitHub takes the strictest of all, so it loosens nothing.
    """
    found = {rules["name"]: rules for rules in fetch_rules(rest)}
    done = []
    for rules in wanted:
        present = found.get(rules["name"])
        if present is None:
            made = partial(_named, rest, rules["name"])
            rest.ask("POST", "/rulesets", json=rules, done_already=made)
            done.append(f"{rules['name']}: created")
        elif differences([rules], [present]):
            rest.ask("PUT", f"/rulesets/{present['id']}", json=rules)
            done.append(f"{rules['name']}: changed")
    return done


def _named(rest: Rest, name: str) -> Json | None:
    listed = rest.pages("/rulesets", {"includes_parents": "false"})
    return next((raw for raw in listed if raw["name"] == name), None)


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Values by dotted path; a rule without parameters is true; plain lists are sorted."""
    if isinstance(value, list) and any(isinstance(item, dict) for item in value):
        value = {_name(item): {k: v for k, v in item.items() if v != _name(item)} for item in value}
    if isinstance(value, dict) and value:
        nested = [_flat(inner, f"{prefix}.{key}".strip(".")) for key, inner in value.items()]
        return {key: inner for each in nested for key, inner in each.items()}
    if isinstance(value, dict):
        return {prefix: True}
    return {prefix: sorted(value, key=str) if isinstance(value, list) else value}


def _name(item: Json) -> str:
    return next(str(item[key]) for key in KEYS if key in item)


def _shown(value: Any) -> str:
    return "nothing" if value is None else json.dumps(value)
