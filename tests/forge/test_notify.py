"""What becomes of a failed run, by what GitHub says of its jobs: run again, or told."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from tests.forge.stand_in import check

from sekisho.errors import CannotCheck
from sekisho.forge.github import GitHubForge
from sekisho.forge.notify import settle, tell_failures

TIME_LIMIT = "The job has exceeded the maximum execution time of 1h0m0s"
LATER_RUN = "Canceling since a higher priority waiting request for 'release' exists"
PERSON = "The run was canceled by @reviewer."


class Actions:
    """GitHub's answers on one run with one job; what was run again, and what the chat heard."""

    def __init__(self, step: str, code: int | None, conclusion: str = "failure", cause: str = "") -> None:
        self.job = {"id": 5, "name": "sign", "conclusion": conclusion}
        self.job["steps"] = [{"name": step, "conclusion": conclusion}]
        self.cause, self.again, self.chat = cause, 0, list[str]()
        self.log = "" if code is None else f"why\n##[error]Process completed with exit code {code}.\n"

    def __call__(self, request: httpx.Request) -> httpx.Response:
        check(request)
        match request.url.path.removeprefix("/repos/acme/sekisho/"):
            case "actions/runs/7/attempts/1/jobs":
                return httpx.Response(200, json={"jobs": [self.job]})
            case "check-runs/5/annotations":
                notes = [{"annotation_level": "failure", "message": self.cause}]
                return httpx.Response(200, json=notes if self.cause else [])
            case "actions/jobs/5/logs":
                return httpx.Response(200, text=self.log)
            case "actions/runs/7/rerun-failed-jobs":
                self.again += 1
                return httpx.Response(201, json={})
        raise AssertionError(request.url.path)


def settled(actions: Actions, monkeypatch: pytest.MonkeyPatch, params: Any, event: str = "schedule") -> None:
    def chat(address: str, *, json: dict[str, str], timeout: float) -> httpx.Response:
        actions.chat.append(json["text"])
        return httpx.Response(200, request=httpx.Request("POST", address))

    monkeypatch.setattr(httpx, "post", chat)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    forge = GitHubForge("acme/sekisho", params, "token", httpx.MockTransport(actions))
    run = {"id": 7, "run_attempt": 1, "event": event, "conclusion": actions.job["conclusion"]}
    run |= {"name": "release", "path": ".github/workflows/release.yml", "html_url": "https://github.com/x"}
    settle(forge, run | {"display_title": "release", "pull_requests": []}, "https://chat.example.invalid")


@pytest.mark.parametrize(
    ("step", "code", "again"),
    [
        ("Run .venv/bin/sekisho pr approval --out x", 1, 0),  # judged and refused
        ("Run git diff --exit-code -- metrics", 1, 0),
        ("Run .venv/bin/sekisho sign x", 2, 1),
        ("Run .venv/bin/dvc pull --remote storage", 1, 1),  # DVC says 1 to a network that failed
        ("Run make setup", 2, 1),
        ("Post Run actions/checkout", None, 1),
    ],
)
def test_only_what_sekisho_judged_is_not_run_again(monkeypatch, params, step, code, again):
    actions = Actions(step, code)
    settled(actions, monkeypatch, params)
    assert (actions.again, len(actions.chat)) == (again, 1 - again)


def test_a_job_that_ran_out_of_time_is_run_again(monkeypatch, params):
    actions = Actions("Run .venv/bin/dvc pull", None, "cancelled", TIME_LIMIT)
    settled(actions, monkeypatch, params)
    assert (actions.again, actions.chat) == (1, [])


@pytest.mark.parametrize("cause", [LATER_RUN, PERSON, ""])
def test_a_run_that_was_stopped_is_told_with_the_reason_and_not_run_again(monkeypatch, params, cause):
    actions = Actions("Run .venv/bin/dvc pull", None, "cancelled", cause)
    settled(actions, monkeypatch, params)
    assert actions.again == 0
    (text,) = actions.chat
    assert cause in text


def test_a_failed_night_on_the_cluster_is_told_with_its_steps(monkeypatch):
    said = list[str]()

    def chat(address: str, *, json: dict[str, str], timeout: float) -> httpx.Response:
        said.append(json["text"])
        return httpx.Response(200, request=httpx.Request("POST", address))

    monkeypatch.setattr(httpx, "post", chat)
    failures = json.dumps(
        [{"displayName": "train(1)", "phase": "Failed", "message": "main: Error (exit code 2)"}]
    )
    tell_failures("nightly-1", json.dumps(failures), "https://chat.example.invalid", 5.0)
    assert "nightly-1" in said[0]
    assert "train(1): main: Error (exit code 2)" in said[0]


def test_a_failed_night_with_nobody_to_tell_and_a_list_that_is_none_are_errors():
    with pytest.raises(CannotCheck, match="nobody to tell: stage: Error"):
        tell_failures("n", '[{"displayName": "stage", "phase": "Error"}]', None, 5.0)
    with pytest.raises(CannotCheck, match="not Argo's list"):
        tell_failures("n", "{{workflow.failures}}", "https://chat.example.invalid", 5.0)
