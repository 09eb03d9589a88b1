"""The built site: no dead link, nothing from a network, a search that works from a file in both languages."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

REPO = Path(__file__).parents[2]
MKDOCS = REPO / "build/docs/bin/mkdocs"
BROWSER = shutil.which("chromium") or shutil.which("google-chrome")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not MKDOCS.exists(), reason="the generator is not installed: make docs"),
]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built as `make docs` does: strict, so that a dead link or anchor fails it."""
    folder = tmp_path_factory.mktemp("site")
    env = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    words = [str(MKDOCS), "build", "--site-dir", str(folder)]
    done = subprocess.run(words, cwd=REPO, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


def test_no_page_loads_anything_from_a_network(site: Path) -> None:
    loads = re.compile(
        r"<(?:script|img|iframe)[^>]*src=\"https?:[^\"]*|<link[^>]*stylesheet[^>]*https?:[^>]*"
    )
    pages = list(site.rglob("*.html"))
    assert len(pages) > 50
    assert {found for page in pages for found in loads.findall(page.read_text(encoding="utf-8"))} == set()


def test_each_page_is_in_its_language_and_leads_to_its_twin(site: Path) -> None:
    for page in [*site.glob("en/**/*.html"), *site.glob("ja/**/*.html")]:
        text = page.read_text(encoding="utf-8")
        here, there = ("en", "ja") if page.relative_to(site).parts[0] == "en" else ("ja", "en")
        assert f'<html lang="{here}"' in text
        twins = re.findall(rf'href="([^"]+)"[^>]*hreflang="{there}"', text)
        assert [(page.parent / twin).resolve().exists() for twin in twins] == [True] * len(twins) != []


@pytest.mark.skipif(BROWSER is None, reason="no Chromium here")
@pytest.mark.parametrize(("language", "word"), [("en", "rollback"), ("ja", "切り戻し")])
def test_the_search_finds_a_word_from_a_file(site: Path, language: str, word: str) -> None:
    words = [
        str(BROWSER), "--headless=new", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=20000",
        "--dump-dom", f"file://{site}/{language}/index.html?q={word}",
    ]  # fmt: skip
    page = subprocess.run(words, capture_output=True, text=True, timeout=120).stdout
    assert page.count("md-search-result__link") >= 5
