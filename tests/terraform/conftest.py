from __future__ import annotations

from typing import Any

import pytest
from terraform.offline import plans as offline_plans


@pytest.fixture(scope="session")
def plans() -> dict[str, dict[str, Any]]:
    """The plan of every root, made once for all workers."""
    return offline_plans()
