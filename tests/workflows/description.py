"""GitHub's own OpenAPI description of its REST API: what may be asked and what is answered.

From the npm package ``@octokit/openapi``, pinned with its integrity by package-lock.json beside this file.
"""

from __future__ import annotations

import copy
import json
import re
from functools import cache
from pathlib import Path
from typing import Any, Self

from openapi_schema_validator import OAS30Validator, oas30_format_checker
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT4
from tests.npm import npm_packages

HERE = Path(__file__).parent
URI = "urn:github"
COERCED = {"integer": int, "number": float, "boolean": lambda text: {"true": True, "false": False}[text]}


class Description:
    """Checks requests and answers; a fault is an AssertionError that names the operation and the field."""

    def __init__(self, document: dict[str, Any]) -> None:
        self.document = document
        self.registry = Registry().with_resource(URI, Resource(contents=document, specification=DRAFT4))
        self.paths = [(re.compile(_pattern(path)), path) for path in document["paths"]]
        self.used: set[str] = set()  # operationIds that were asked for

    @classmethod
    def load(cls) -> Self:
        """The pinned description of api.github.com; skips where npm or its registry is missing."""
        file = npm_packages(HERE) / "@octokit/openapi/generated/api.github.com.json"
        return cls(_read(file))

    def operation(self, method: str, path: str) -> tuple[dict[str, Any], dict[str, str]]:
        """The operation of a request, and the values in its path."""
        matches = [(t, m) for pattern, t in self.paths if (m := pattern.fullmatch(path))]
        matches = [(t, m) for t, m in matches if method.lower() in self.document["paths"][t]]
        assert matches, f"GitHub has no {method} {path}"
        template, match = min(matches, key=lambda found: (found[0].count("{"), len(found[1].groups())))
        names = re.findall(r"\{(\w+)\}", template)
        operation = self.document["paths"][template][method.lower()]
        self.used.add(operation["operationId"])
        return operation, dict(zip(names, match.groups(), strict=True))

    def check_request(self, method: str, path: str, query: dict[str, str], body: Any) -> str:
        """Every value fits, nothing needed is missing, nothing unknown is given; returns the operationId."""
        operation, values = self.operation(method, path)
        name = operation["operationId"]
        parameters = [self.resolve(p) for p in operation.get("parameters", [])]
        given = {"path": values, "query": query}
        for place, found in given.items():
            known = {p["name"]: p for p in parameters if p["in"] == place}
            unknown = set(found) - set(known)
            assert not unknown, f"{name}: GitHub knows no {place} parameter {sorted(unknown)}"
            missing = {key for key, p in known.items() if p.get("required")} - set(found)
            assert not missing, f"{name}: {place} parameter {sorted(missing)} is missing"
            for key, text in found.items():
                schema = known[key]["schema"]
                kind = self.resolve(schema).get("type")
                value = COERCED.get(kind, str)(text)
                self._validate(value, schema, f"{name}: {place} parameter {key}")
        wanted = self.resolve(operation.get("requestBody", {}))
        if not wanted:
            assert body is None, f"{name} takes no body"
            return name
        if body is None:
            assert not wanted.get("required"), f"{name} needs a body"
            return name
        schema = wanted["content"]["application/json"]["schema"]
        self._validate(body, schema, f"{name}: body")
        properties = self.resolve(schema).get("properties")
        if properties and isinstance(body, dict):
            assert set(body) <= set(properties), (
                f"{name}: unknown fields {sorted(set(body) - set(properties))}"
            )
        return name

    def check_response(self, method: str, path: str, status: int, body: Any) -> None:
        """The status is one that the operation may answer, and the body is of its schema."""
        operation, _ = self.operation(method, path)
        name = f"{operation['operationId']}: answer {status}"
        assert str(status) in operation["responses"] or status >= 400, f"{name} is not in the description"
        content = self.resolve(operation["responses"].get(str(status), {})).get("content", {})
        media = next((m for m in content if m == "application/json"), next(iter(content), None))
        if media and "json" in media and "schema" in content[media]:
            self._validate(body, content[media]["schema"], name)

    def example(self, name: str) -> Any:
        """A whole object as GitHub's documentation shows it, for ``components/examples/<name>``."""
        return copy.deepcopy(self.document["components"]["examples"][name]["value"])

    def resolve(self, thing: dict[str, Any]) -> dict[str, Any]:
        while "$ref" in thing:
            found: Any = self.document
            for part in thing["$ref"].removeprefix("#/").split("/"):
                found = found[part.replace("~1", "/").replace("~0", "~")]
            thing = found
        return thing

    def _validate(self, value: Any, schema: dict[str, Any], what: str) -> None:
        absolute = json.loads(json.dumps(schema).replace('"$ref": "#/', f'"$ref": "{URI}#/'))
        validator = OAS30Validator(absolute, registry=self.registry, format_checker=oas30_format_checker)
        faults = sorted(validator.iter_errors(value), key=lambda e: len(list(e.absolute_path)))
        where = "; ".join(
            f"{'.'.join(map(str, f.absolute_path)) or '(all)'}: {f.message[:200]}" for f in faults[:5]
        )
        assert not faults, f"{what}: {where}"


@cache
def _read(file: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return document


def _pattern(template: str) -> str:
    """A path template as a regular expression; only ``path`` and ``ref`` at the end may hold slashes."""
    parts = re.split(r"(\{\w+\})", template)
    out = []
    for index, part in enumerate(parts):
        if not part.startswith("{"):
            out.append(re.escape(part))
        elif part in ("{path}", "{ref}", "{basehead}") and not "".join(parts[index + 1 :]):
            out.append("(.+)")
        else:
            out.append("([^/]+)")
    return "".join(out)
