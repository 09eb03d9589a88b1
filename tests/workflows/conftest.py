"""A world for each module, and at its end what every run took and left."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.workflows.world import World


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    made = World(tmp_path_factory.mktemp("world"))
    yield made
    print("\n".join(f"{name:<14} {ran.seconds:5.1f} s  {ran.jobs}" for name, ran in made.started))
    made.close()
