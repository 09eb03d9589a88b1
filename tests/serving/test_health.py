"""The health of a SeldonDeployment as Argo CD computes it: the same Lua file, in the same Lua version."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from lupa.lua51 import LuaRuntime

SCRIPT = Path(__file__).parents[2] / "deploy/argocd/seldondeployment.lua"


def health(status: dict[str, Any] | None) -> tuple[str, str]:
    lua = LuaRuntime()
    thing: dict[str, Any] = {"kind": "SeldonDeployment", "spec": {}}
    if status is not None:
        thing["status"] = status
    lua.globals()["obj"] = lua.table_from(thing, recursive=True)
    found = lua.execute(SCRIPT.read_text())
    return found["status"], found["message"]


def deployed(available: int, wanted: int) -> dict[str, Any]:
    return {"policy-stable-0-policy": {"availableReplicas": available, "replicas": wanted}}


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (None, "Progressing"),
        ({}, "Progressing"),
        ({"state": "Creating"}, "Progressing"),
        ({"state": "Available", "deploymentStatus": deployed(2, 2)}, "Healthy"),
        ({"state": "Available"}, "Healthy"),
        ({"state": "Available", "deploymentStatus": deployed(1, 2)}, "Progressing"),
        ({"state": "Available", "deploymentStatus": {"a": {"replicas": 2}}}, "Progressing"),
        (
            {"state": "Available", "deploymentStatus": {**deployed(2, 2), "canary": {"replicas": 1}}},
            "Progressing",
        ),
        ({"state": "Failed", "description": "no such image"}, "Degraded"),
        ({"state": "Failed", "deploymentStatus": deployed(2, 2)}, "Degraded"),
        (
            {
                "state": "Available",
                "conditions": [{"type": "Ready", "status": "False", "message": "rolling"}],
            },
            "Progressing",
        ),
        ({"state": "Available", "conditions": [{"type": "Ready", "status": "True"}]}, "Healthy"),
    ],
)
def test_health_follows_the_operators_status(status: dict[str, Any] | None, expected: str) -> None:
    assert health(status)[0] == expected


def test_the_message_says_what_is_waited_for() -> None:
    assert health({"state": "Available", "deploymentStatus": deployed(1, 2)})[1] == (
        "policy-stable-0-policy: 1 of 2 replicas"
    )
    assert health({"state": "Failed", "description": "no such image"})[1] == "no such image"
