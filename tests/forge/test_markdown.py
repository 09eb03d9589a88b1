"""Long reports are cut without breaking tables or fences; other people's words stay words."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from sekisho.forge.markdown import one_line, quoted, split_markdown

LINE = st.text(alphabet=st.characters(codec="utf-8", exclude_characters="\n\r|`~<"), max_size=60)
TABLE = st.integers(1, 40).map(
    lambda rows: "\n".join(
        ["", "| rule | figure |", "|---|---:|", *[f"| r{n} | {n} |" for n in range(rows)], ""]
    )
)
FENCED = st.tuples(st.sampled_from(["```", "~~~~", "```json"]), st.lists(LINE, max_size=30)).map(
    lambda f: "\n".join(["", f[0], *[f"  {line}" for line in f[1]], f[0].rstrip("json"), ""])
)
FOLDED = st.one_of(TABLE, FENCED).map(lambda inner: f"<details><summary>s</summary>\n{inner}\n</details>\n")
DOCUMENT = st.lists(st.one_of(LINE, TABLE, FENCED, FOLDED), max_size=12).map("\n".join)


@given(text=DOCUMENT, limit=st.integers(250, 500))
def test_every_part_fits_and_stands_on_its_own(text, limit):
    parts = split_markdown(text, limit)
    for part in parts:
        assert len(part) <= limit
        lines, fence = part.split("\n"), ""
        for index, line in enumerate(lines):
            mark = re.match(r"(`{3,}|~{3,})", line)
            if mark and not fence:
                fence = mark[1]
            elif mark and line.strip() == fence:
                fence = ""
            elif line.startswith("| r") and not fence and line != "| rule | figure |":
                table = [n for n in range(index) if lines[n] == "|---|---:|"]
                assert table
                assert lines[table[-1] - 1] == "| rule | figure |"
                assert all(between.startswith("| r") for between in lines[table[-1] + 1 : index])
        assert fence == ""
        assert part.count("<details>") == part.count("</details>")


@given(text=DOCUMENT, limit=st.integers(250, 500))
def test_nothing_is_lost_and_the_order_is_kept(text, limit):
    def content(markdown: str) -> list[str]:
        frame = ("```", "~~~~", "```json", "| rule | figure |", "|---|---:|", "")
        frame += ("<details><summary>s</summary>", "</details>")
        return [line for line in markdown.split("\n") if line.strip() not in frame]

    assert [line for part in split_markdown(text, limit) for line in content(part)] == content(text)


def test_a_200_kb_table_is_split_and_every_part_has_its_header():
    rows = [f"| {n} | {'x' * 50} |" for n in range(3500)]
    parts = split_markdown("\n".join(["# Report", "", "| n | what |", "|---|---|", *rows]), 65000)
    assert len(parts) == 4
    assert all("| n | what |\n|---|---|\n" in part for part in parts)
    assert [line for p in parts for line in p.split("\n") if line.endswith("x |")] == rows


def test_a_fold_that_is_cut_is_closed_and_opened_again():
    rows = [f"| {n} | {'x' * 50} |" for n in range(100)]
    fold = [
        "<details><summary>All</summary>",
        "",
        "| n | what |",
        "|---|---|",
        *rows,
        "",
        "</details>",
        "after",
    ]
    parts = split_markdown("\n".join(["before", *fold]), 2000)
    assert len(parts) > 2
    opened = "<details><summary>All</summary>\n\n| n | what |\n|---|---|\n"
    assert all(opened in part and "\n\n</details>" in part for part in parts)
    assert parts[-1].endswith("</details>\nafter")


def test_one_endless_line_is_cut_rather_than_refused():
    assert "".join(split_markdown("y" * 1000, 100)) == "y" * 1000


@given(st.text())
def test_quoted_words_stay_in_one_code_span(text):
    shown = quoted(text)
    assert "\n" not in shown
    assert len(shown) < 220
    assert "`" not in shown.removeprefix("``").removesuffix("``")


def test_a_title_is_one_printable_line():
    assert one_line("a\n\n# b\x00\u2028<c>") == "a # b <c>"
