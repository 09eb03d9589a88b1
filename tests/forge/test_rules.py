"""The repository's rules against a stand-in of GitHub whose requests and answers are as GitHub describes."""

from __future__ import annotations

import copy
import json
import os
import re
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import httpx
import pytest
import yaml
from tests.workflows.description import Description

from sekisho.errors import CannotCheck
from sekisho.forge.rest import Rest
from sekisho.forge.rules import apply_rules, differences, fetch_rules, read_rules
from sekisho.params import load_params

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / ".github/rulesets"
PREFIX = "/repos/acme/sekisho"
ADMINS = {"actor_id": 5, "actor_type": "RepositoryRole", "bypass_mode": "always"}
CHECKS = "rules.required_status_checks.parameters.required_status_checks"


class Rulesets:
    """GitHub's rulesets in memory."""

    def __init__(self, description: Description) -> None:
        self.description, self.kept, self.hidden, self.writes = description, {}, False, 0

    def __call__(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path
        body = json.loads(request.content) if request.content else None
        query = dict(parse_qsl(request.url.query.decode()))
        self.description.check_request(request.method, path, query, body)
        status, found = self.answer(request.method, path.removeprefix(f"{PREFIX}/rulesets"), body)
        self.description.check_response(request.method, path, status, found)
        return httpx.Response(status, json=found)

    def answer(self, method: str, path: str, body: Any) -> tuple[int, Any]:
        if method == "GET" and not path:
            return 200, [_without(rules, "rules", "bypass_actors") for rules in self.kept.values()]
        if method in ("POST", "PUT"):
            self.writes += 1
            number = int(path.strip("/") or len(self.kept) + 1)
            body = copy.deepcopy(body)
            for rule in body["rules"]:
                if rule["type"] == "pull_request":
                    rule["parameters"] = {"required_reviewers": []} | rule["parameters"]
            self.kept[number] = body | {"id": number, "source": "acme/sekisho", "source_type": "Repository"}
        number = number if method == "POST" else int(path.strip("/"))
        hidden = ("bypass_actors",) if self.hidden else ()
        status = 201 if method == "POST" else 200
        return status, _without(self.kept[number], *hidden)


def _without(rules: dict[str, Any], *fields: str) -> dict[str, Any]:
    return {key: value for key, value in rules.items() if key not in fields}


@pytest.fixture
def github() -> Rulesets:
    return Rulesets(Description.load())


@pytest.fixture
def rest(github, params, monkeypatch) -> Rest:
    monkeypatch.delenv("GITHUB_API_URL", raising=False)
    return Rest("acme/sekisho", params, "t", httpx.MockTransport(github))


def test_rules_that_were_applied_are_the_same_and_applying_again_changes_nothing(github, rest):
    wanted = read_rules(FOLDER)
    assert differences(wanted, fetch_rules(rest)) == ["main: not on GitHub", "tags: not on GitHub"]
    assert apply_rules(rest, wanted) == ["main: created", "tags: created"]
    assert differences(wanted, fetch_rules(rest)) == []
    assert apply_rules(rest, wanted) == []
    assert github.writes == 2


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda r: r.update(enforcement="disabled"),
            'main: enforcement: the file says "active", GitHub "disabled"'),
        (
            lambda r: r["bypass_actors"].append(ADMINS),
            'main: bypass_actors.5.bypass_mode: the file says nothing, GitHub "always"',
        ),
        (lambda r: r["rules"].pop(1), "main: rules.non_fast_forward: the file says true, GitHub nothing"),
        (
            lambda r: r["rules"][3]["parameters"].update(required_approving_review_count=0),
            "main: rules.pull_request.parameters.required_approving_review_count: the file says 1, GitHub 0",
        ),
        (
            lambda r: r["rules"][4]["parameters"]["required_status_checks"].pop(),
            f"main: {CHECKS}.reproduce the pipeline.integration_id: the file says 15368, GitHub nothing",
        ),
        (
            lambda r: r["rules"].append({"type": "required_linear_history"}),
            "main: rules.required_linear_history: the file says nothing, GitHub true",
        ),
        (
            lambda r: r["conditions"]["ref_name"]["exclude"].append("refs/heads/main"),
            'main: conditions.ref_name.exclude: the file says [], GitHub ["refs/heads/main"]',
        ),
    ],
)  # fmt: skip
def test_a_rule_that_someone_changed_on_github_is_named_and_put_back(github, rest, change, told):
    wanted = read_rules(FOLDER)
    apply_rules(rest, wanted)
    change(github.kept[1])
    assert told in differences(wanted, fetch_rules(rest))
    assert apply_rules(rest, wanted) == ["main: changed"]
    assert differences(wanted, fetch_rules(rest)) == []


def test_a_ruleset_in_no_file_is_named_and_left_alone(github, rest):
    wanted = read_rules(FOLDER)
    apply_rules(rest, wanted[:1])
    assert differences(wanted[1:], fetch_rules(rest)) == [
        "tags: not on GitHub",
        "main: on GitHub, but in no file",
    ]
    apply_rules(rest, wanted[1:])
    assert len(github.kept) == 2


def test_who_may_bypass_is_known_or_nothing_is_said(github, rest):
    apply_rules(rest, read_rules(FOLDER))
    github.hidden = True
    with pytest.raises(CannotCheck, match="bypass"):
        fetch_rules(rest)


def test_our_rules_let_nobody_pass_and_require_jobs_that_exist():
    jobs = yaml.safe_load((ROOT / ".github/workflows/pr.yml").read_text())["jobs"].values()
    names = {job["name"] for job in jobs}
    for rules in read_rules(FOLDER):
        assert (rules["enforcement"], rules["bypass_actors"]) == ("active", [])
    by_type = {rule["type"]: rule.get("parameters", {}) for rule in read_rules(FOLDER)[0]["rules"]}
    assert {"deletion", "non_fast_forward", "required_signatures", "pull_request"} <= set(by_type)
    required = by_type["required_status_checks"]["required_status_checks"]
    assert {check["context"] for check in required} <= names


@pytest.mark.parametrize("text", ["{", "[]", '{"name": "x"}', '{"name": "x", "typo": 1}'])
def test_a_file_that_is_no_ruleset_is_named(tmp_path, text):
    (tmp_path / "bad.json").write_text(text)
    with pytest.raises(CannotCheck, match=r"bad\.json"):
        read_rules(tmp_path)


def test_the_command_exits_by_what_it_found(github, tmp_path):
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            length = int(self.headers.get("content-length", 0))
            request = httpx.Request(self.command, f"http://x{self.path}", content=self.rfile.read(length))
            answer = github(request)
            self.send_response(answer.status_code)
            self.end_headers()
            self.wfile.write(answer.content)

        do_POST = do_GET

        def log_message(self, *words: object) -> None:
            pass

    def repo(*words: str) -> tuple[int, str]:
        program = [sys.executable, "-c", "from sekisho.cli import run; run()", "repo", "rules", *words]
        done = subprocess.run(program, cwd=ROOT, env=environment, capture_output=True, text=True)
        return done.returncode, done.stdout + done.stderr

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    environment = os.environ | {
        "SEKISHO_FORGE": "github:acme/sekisho",
        "GITHUB_TOKEN": "t",
        "GITHUB_API_URL": url,
    }
    try:
        assert repo("check")[0] == 1
        assert repo("apply") == (0, "main: created\ntags: created\n")
        assert repo("check")[0] == 0
        assert json.loads(repo("show")[1])[0]["name"] == "main"
        assert repo("check", "--from", str(tmp_path))[0] == 2
    finally:
        server.shutdown()
        server.server_close()


def test_every_room_has_its_owners_and_every_owned_path_is_there():
    lines = [line for line in (ROOT / ".github/CODEOWNERS").read_text().splitlines() if line[:1] in "*/"]
    owned = {line.split()[0]: line.split()[1:] for line in lines if line}
    assert all(teams and all(re.fullmatch(r"@sekisho/[a-z-]+", t) for t in teams) for teams in owned.values())
    assert [path for path in owned if path != "*" and not (ROOT / path.strip("/")).exists()] == []
    rooms = {f"/{path.parent.relative_to(ROOT)}/" for path in (ROOT / "src/sekisho").glob("*/*.py")}
    assert rooms <= set(owned)
    desk = load_params(ROOT / "params.yaml").forge.trading_desk
    assert f"@sekisho/{desk}" in owned["/deploy/policy/"]
