"""Writes docs/en/reference and docs/ja/reference from the code: commands, parameters, alerts, gate, …

    PYTHONPATH=. python docs/reference.py [--check]

What the code says in English is looked up in docs/words.yaml for the Japanese pages; a text without a
translation ends with 1 and is named. ``--check`` writes nothing and exits 1 where a page is stale.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import yaml
from docs.rules import errors_page, gate_page, metrics_page, report_page
from docs.words import CANNOT_TRANSLATE, Words

from sekisho.cli import main as cli

ROOT = Path(__file__).parents[1]
LANGUAGES = ("en", "ja")
DEFAULT = re.compile(r"\s*\[default: .*\]$")


def commands(group: click.Group, *words: str) -> Iterator[tuple[str, click.Command]]:
    """Every command under a group with its words, in the order of ``--help``."""
    for name in group.list_commands(click.Context(group)):
        command = group.get_command(click.Context(group), name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from commands(command, *words, name)
        else:
            yield " ".join([*words, name]), command


def cli_page(words: Words) -> str:
    parts = [words["Command line"], "", words.intro("cli")]
    for name, command in commands(cli):
        first = " ".join((command.help or "").split("\n\n")[0].split())
        parts += ["", f"## sekisho {name}", "", words(first)]
        if command.params:
            heads = ("option", "default", "meaning (as in --help)")
            parts += ["", _head([words(head) for head in heads])]
            parts += [_option(parameter, words) for parameter in command.params]
    return "\n".join(parts)


def _option(parameter: click.Parameter, words: Words) -> str:
    if isinstance(parameter, click.Argument):
        name = parameter.make_metavar(click.Context(click.Command("")))
        return f"| `{_cell(name)}` | | |"
    assert isinstance(parameter, click.Option)
    name = " / ".join([*parameter.opts, *parameter.secondary_opts])
    if isinstance(parameter.type, click.Choice):
        name += " " + "|".join(map(str, parameter.type.choices))
    elif not parameter.is_flag:
        name += f" {parameter.metavar or parameter.type.name.upper()}"
    default = parameter.to_info_dict().get("default")
    if parameter.required:
        shown = words("required")
    elif default in (None, "", False, True) or callable(default):
        shown = ""
    else:
        shown = f"`{default}`"
    return f"| `{_cell(name)}` | {shown} | {_cell(parameter.help or '')} |"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _head(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |\n|{' --- |' * len(cells)}"


def params() -> Iterator[tuple[str, str, str]]:
    """Section, key and comment of every parameter; not its value, which any experiment may change."""
    section = ""
    for line in (ROOT / "params.yaml").read_text(encoding="utf-8").splitlines():
        if found := re.match(r"(\w+):\s*$", line):
            section = found[1]
        elif found := re.match(r"  (\w+): .*?(?:\s+# (.*))?$", line):
            yield section, found[1], (found[2] or "").strip()


def params_page(words: Words) -> str:
    parts = [words["Parameters"], "", words.intro("params")]
    last = ""
    for section, key, comment in params():
        if section != last:
            heads = [words(head) for head in ("parameter", "meaning and unit")]
            parts += ["", f"## {section}", "", _head(heads)]
            last = section
        parts.append(f"| `{section}.{key}` | {_cell(words(comment)) if comment else ''} |")
    return "\n".join(parts)


def alerts_page(words: Words) -> str:
    rules = yaml.safe_load((ROOT / "deploy/monitoring/rules.yml").read_text(encoding="utf-8"))
    heads = [words(head) for head in ("alert", "team", "how", "after", "says")]
    parts = [words["Alerts"], "", words.intro("alerts"), "", _head(heads)]
    for group in rules["groups"]:
        for rule in group["rules"]:
            if name := rule.get("alert"):
                label, summary = rule["labels"], rule["annotations"]["summary"]
                says = words(re.sub(r"^(\{\{[^}]*\}\}[/: ]*)+", "", summary))
                team, how = (words(label[key]) for key in ("team", "severity"))
                link = f"[`{name}`](../runbooks/{name}.md)"
                parts.append(f"| {link} | {team} | {how} | {rule.get('for', '0m')} | {_cell(says)} |")
    return "\n".join(parts)


def workflows_page(words: Words) -> str:
    heads = [words(head) for head in ("workflow", "starts on", "jobs", "environment")]
    parts = [words["Workflow files"], "", words.intro("workflows"), "", _head(heads)]
    for path in sorted((ROOT / ".github/workflows").glob("*.yml")):
        flow = yaml.safe_load(path.read_text(encoding="utf-8"))
        starts = flow[True]  # YAML 1.1 reads the key `on` so
        where = {job["environment"] for job in flow["jobs"].values() if "environment" in job}
        cells = [
            " ".join(f"`{name}`" for name in group)
            for group in (starts, flow["jobs"], sorted(re.sub(r"\$\{\{.*\}\}", "…", name) for name in where))
        ]
        parts.append(f"| `{path.name}` | {' | '.join(cells)} |")
    return "\n".join(parts)


def make_page(words: Words) -> str:
    heads = [words(head) for head in ("target", "meaning")]
    parts = [words["Make targets"], "", words.intro("make"), "", _head(heads)]
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    for name, says in re.findall(r"^([a-z0-9-]+):.*## (.*)$", text, flags=re.MULTILINE):
        parts.append(f"| `make {name}` | {_cell(words(says))} |")
    return "\n".join(parts)


PAGES: dict[str, Callable[[Words], str]] = {
    "cli": cli_page,
    "params": params_page,
    "make": make_page,
    "workflows": workflows_page,
    "alerts": alerts_page,
    "metrics": metrics_page,
    "gate": gate_page,
    "report": report_page,
    "errors": errors_page,
}


def render(words: dict[str, Words]) -> dict[Path, str]:
    """Each generated page with what it should hold."""
    note = "<!-- written by docs/reference.py (make docs-reference): do not edit -->"
    return {
        ROOT / f"docs/{language}/reference/{name}.md": f"{note}\n\n{page(words[language])}\n"
        for language in LANGUAGES
        for name, page in PAGES.items()
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    words = {language: Words(language) for language in LANGUAGES}
    files = render(words)
    if missing := words["ja"].missing:
        print(CANNOT_TRANSLATE, *missing, sep="\n", file=sys.stderr)
        if check:
            return 1
    present = {path for language in LANGUAGES for path in (ROOT / f"docs/{language}/reference").glob("*.md")}
    stale = [
        path
        for path in sorted({*files, *present})
        if not path.exists() or path.read_text(encoding="utf-8") != files.get(path)
    ]
    for path in stale:
        if check:
            print(f"{path.relative_to(ROOT)} is stale: make docs-reference", file=sys.stderr)
        elif path in files:
            path.parent.mkdir(exist_ok=True)
            path.write_text(files[path], encoding="utf-8")
        else:
            path.unlink()
    return 1 if (check and stale) or missing else 0


if __name__ == "__main__":
    sys.exit(main())
