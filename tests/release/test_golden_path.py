"""The way a release takes when nothing is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np


def test_a_signed_release_verifies_and_is_promoted(shop: Any) -> None:
    from sekisho.release.promote import Pointer, promote, read_pointer

    verified = shop.verify()
    assert set(verified.facts) == {"provenance", "evaluation", "data", "approval"}
    promoted, before = promote(shop.desk, shop.release, "local", "first release")
    assert before is None
    assert read_pointer(shop.repo, "local") == Pointer("policy", 1, promoted.digest)
    shop.verify(deployed=True)
