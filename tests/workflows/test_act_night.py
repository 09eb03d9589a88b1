"""The night, executed by act: a candidate is trained on the day's bars and judged; nothing is released."""

from __future__ import annotations

import pytest
from tests.workflows.world import World

pytestmark = pytest.mark.slow


def test_a_candidate_is_trained_on_the_days_bars_and_nothing_is_released(world: World) -> None:
    world.upload(world.bars_after_the_sample(2), "source")
    before = world.github.git("for-each-ref")
    ran = world.act("nightly.yml", "schedule", world.schedule("0 8 * * 1-5"))
    assert ran.jobs == {"bars": "success", "candidate": "success", "reproduce": "skipped"}
    assert "2 new partitions" in ran.output("candidate")
    assert "Running stage 'train'" in ran.output("candidate")
    assert (world.folder / "artifacts" / str(world.runs) / "report/report.md").is_file()
    assert world.keys("storage/runs"), "a run that is started again resumes behind its finished stages"
    assert world.github.git("for-each-ref") == before
