"""The pages in a real browser: both languages, both schemes, a desk and a phone, print, and axe's rules."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from tests.npm import npm_packages

HERE = Path(__file__).parent
BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
PAGES = ["audit.html", "kpi.html", "model.html", "report.html", "verdict.html"]
VIEWS = ["desktop", "desktop-dark", "desktop-ja", "phone", "phone-ja-dark"]
LIGHT, DARK = "rgb(255, 255, 255)", "rgb(15, 20, 25)"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="no Chromium here"),
    pytest.mark.skipif(shutil.which("node") is None, reason="no node here"),
]


@pytest.fixture(scope="module")
def opened(site: Path) -> dict[str, Any]:
    """What Chromium saw; SEKISHO_PICTURES names a folder for pictures of every view."""
    modules = npm_packages(HERE)
    words = ["node", HERE / "browser.mjs", modules, str(BROWSER), site]
    if pictures := os.environ.get("SEKISHO_PICTURES"):
        words.append(pictures)
    done = subprocess.run(list(map(str, words)), capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.fixture(params=[(page, view) for page in PAGES for view in VIEWS], ids="-".join)
def seen(request: pytest.FixtureRequest, opened: dict[str, Any]) -> dict[str, Any]:
    page, view = request.param
    (found,) = [one for one in opened["pages"] if (one["file"], one["view"]) == (page, view)]
    return dict(found)


def test_a_page_renders_without_a_fault_and_asks_nothing_of_a_network(seen: dict[str, Any]) -> None:
    assert seen["faults"] == []
    assert seen["h1"].strip()
    assert all(width > 300 for width in seen["figures"])


def test_axe_finds_nothing(seen: dict[str, Any]) -> None:
    assert seen["against"] == []


def test_one_language_is_shown_at_a_time(seen: dict[str, Any]) -> None:
    shown, hidden = ("english", "japanese") if seen["language"] == "en" else ("japanese", "english")
    assert seen[shown] > 20
    assert seen[hidden] == 0


def test_the_colours_are_the_readers_or_those_of_the_switch(seen: dict[str, Any]) -> None:
    assert seen["background"] == (DARK if seen["scheme"] == "dark" else LIGHT)
    assert seen["chosen"] == {"dark": DARK, "light": LIGHT}


def test_nothing_is_wider_than_the_screen(seen: dict[str, Any]) -> None:
    assert seen["wider"] == 0


def test_paper_is_white_without_the_switches(seen: dict[str, Any]) -> None:
    assert seen["print"]["background"] == LIGHT
    assert not seen["print"]["header"]


def test_what_is_folded_on_the_screen_is_on_paper(opened: dict[str, Any]) -> None:
    assert opened["folded"]["screen"] == 3, "each release's evidence"
    assert opened["folded"]["print"] == 0


def test_every_link_resolves(seen: dict[str, Any], site: Path) -> None:
    beside = [href.partition("#") for href in seen["links"] if not href.startswith("https://")]
    assert {name for name, _, _ in beside if name and not (site / name).is_file()} == set()
    assert {anchor for _, _, anchor in beside} <= {"", "ja"}


def test_a_link_keeps_the_readers_language(opened: dict[str, Any]) -> None:
    followed = opened["followed"]
    assert followed["url"].endswith("kpi.html#ja")
    assert followed["japanese"] > 20
    assert followed["english"] == 0


def test_the_site_has_all_pages(opened: dict[str, Any]) -> None:
    assert sorted({one["file"] for one in opened["pages"]}) == PAGES
