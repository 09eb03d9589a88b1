"""checkov finds nothing but what is skipped with a reason, and every reason is still needed."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import pytest
import yaml
from terraform.offline import BUILD, TERRAFORM

CHECKOV = BUILD / "checkov"
CONFIG = TERRAFORM / "checkov.yaml"

needs_checkov = pytest.mark.skipif(
    not (CHECKOV / "checkov").is_dir(), reason="checkov is not installed: `make test-terraform` installs it"
)


def test_every_skipped_check_has_its_reason_beside_it():
    lines = [line for line in CONFIG.read_text().splitlines() if re.match(r"\s+- CKV", line)]
    assert lines
    assert all(re.search(r"# .{20,}", line) for line in lines)


@needs_checkov
@pytest.mark.applied
def test_checkov_finds_exactly_what_is_skipped():
    words = ["--framework", "terraform", "--directory", str(TERRAFORM), "--output", "json", "--skip-download"]
    done = subprocess.run(
        [sys.executable, "-s", "-m", "checkov.main", *words, "--quiet", "--compact"],
        env=os.environ | {"PYTHONPATH": str(CHECKOV)},
        cwd=BUILD,  # away from terraform/checkov.yaml, so that nothing is skipped
        capture_output=True,
        text=True,
    )
    found = json.loads(done.stdout)
    assert found["summary"]["passed"] > 200
    assert found["summary"]["parsing_errors"] == 0
    failed = {check["check_id"] for check in found["results"]["failed_checks"]}
    assert failed == set(yaml.safe_load(CONFIG.read_text())["skip-check"])
