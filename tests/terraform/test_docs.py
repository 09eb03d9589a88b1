"""The pages say what the code says."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import pytest
from terraform.cost import inputs
from terraform.cost.model import estimate
from terraform.offline import TERRAFORM
from terraform.reference import ESTIMATE, PAGES, cost, filled, for_pages, modules, roles
from tests.terraform.tool import needs_terraform

NAMES = ["en", "ja"]


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_the_reference_and_the_roles_are_those_of_the_code(page):
    text = page.read_text(encoding="utf-8")
    assert filled(text, {"modules": modules(), "roles": roles()}) == text, "make terraform-docs"


@needs_terraform
@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_the_cost_table_is_that_of_the_plans(page, plans):
    text = page.read_text(encoding="utf-8")
    found = estimate(plans, inputs.prices(), inputs.usage())
    assert filled(text, {"cost": cost(found)}) == text, "make terraform-docs"


@needs_terraform
def test_the_estimate_for_the_page_on_cost_is_that_of_the_plans(plans):
    found = estimate(plans, inputs.prices(), inputs.usage())
    assert ESTIMATE.read_text(encoding="utf-8") == for_pages(found), "make terraform-docs"


def test_both_languages_have_the_same_headings_tables_and_code():
    def shape(page):
        text = page.read_text(encoding="utf-8")
        return (
            re.findall(r"^#+ ", text, flags=re.MULTILINE),
            text.count("\n|"),
            re.findall(r"(?s)```.*?```", text),
        )

    en, ja = (shape(page) for page in PAGES)
    assert en == ja


def test_the_picture_shows_every_class_of_bucket():
    root = ET.fromstring((TERRAFORM.parent / "docs/platform.svg").read_text(encoding="utf-8"))
    shown = {element.text for element in root.iter("{http://www.w3.org/2000/svg}text")}
    assert shown >= {"dvc", "releases", "predictions", "audit", "logs", "serving", "training", "runners"}
