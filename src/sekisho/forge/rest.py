"""GitHub's REST API: one request at a time, paginated, retried, and never sent to another host.

Source: GitHub REST API, version 2022-11-28. The token is an App installation's (``GITHUB_TOKEN``), because a
pull request opened with a workflow's own token starts no checks.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import httpx

from sekisho.errors import ForgeError
from sekisho.forge.markdown import one_line
from sekisho.params import ForgeParams

CREATED, NO_CONTENT, NOT_FOUND, NOT_MERGEABLE, CONFLICT, UNPROCESSABLE = 201, 204, 404, 405, 409, 422
TOO_MANY, FORBIDDEN, SERVER = 429, 403, 500

SECONDARY_WAIT = 60.0  # seconds that GitHub wants at least after a secondary rate limit that names no time

Json = dict[str, Any]


class Rest:
    """See the module. ``repository``: ``owner/name``; ``transport``: the network, replaced in tests.

    Paths that begin with ``/`` lie under the repository; others are whole addresses of the API.
    """

    def __init__(
        self,
        repository: str,
        params: ForgeParams,
        token: str,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        if not re.fullmatch(r"[A-Za-z0-9-]+/[A-Za-z0-9._-]+", repository):
            raise ForgeError(f"{repository!r} is not owner/repository", remedy="mend SEKISHO_FORGE")
        if not token:
            raise ForgeError("no token for GitHub", remedy="put the App's token into GITHUB_TOKEN")
        self.repository, self.params = repository, params
        self.server = os.environ.get("GITHUB_SERVER_URL", "https://github.com")
        self.api = os.environ.get("GITHUB_API_URL", "https://api.github.com").rstrip("/")
        self._http = httpx.Client(
            transport=transport,
            timeout=params.timeout,
            headers={
                "Authorization": f"Bearer {token}",
                "Accept": "application/vnd.github+json",
                "X-GitHub-Api-Version": "2022-11-28",
            },
        )

    def pages(self, path: str, params: Mapping[str, str]) -> Iterator[Json]:
        answer = self.ask("GET", path, params=dict(params) | {"per_page": "100"})
        while True:
            yield from answer.json()
            following = answer.links.get("next", {}).get("url")
            if not following:
                return
            if not following.startswith(f"{self.api}/"):
                raise ForgeError("GitHub's next page lies on another host", remedy="check GITHUB_API_URL")
            answer = self.ask("GET", following)

    def graphql(self, query: str, **variables: str) -> Json:
        """What GitHub's GraphQL API answers, for what REST does not tell.

        Raises:
            ForgeError: see :meth:`ask`; the query was refused.
        """
        wish = {"query": query} | ({"variables": variables} if variables else {})
        answer = self.ask("POST", f"{self.api}/graphql", json=wish).json()
        if answer.get("errors") or not answer.get("data"):
            said = one_line(str((answer.get("errors") or [{}])[0].get("message", "")))
            raise ForgeError(f"GitHub refused a query: {said}", remedy="check the App's permissions")
        return dict(answer["data"])

    def ask(
        self,
        method: str,
        path: str,
        *,
        json: Json | None = None,
        params: Mapping[str, str] | None = None,
        allow: tuple[int, ...] = (),
        accept: str | None = None,
        done_already: Callable[[], Json | None] | None = None,
    ) -> httpx.Response:
        """One request, retried on timeouts, 429, rate limits and 5xx with doubling pauses, or those that
        GitHub asks for; what it wants asked again only after ``forge.longest_wait`` is given up at once.

        ``done_already``: asked before a retry of what must not happen twice; what it finds is the answer.

        Raises:
            ForgeError: refused by GitHub, or still failing after ``forge.retries``; never shows the token.
        """
        url = path if path.startswith("http") else f"{self.api}/repos/{self.repository}{path}"
        headers = {"Accept": accept} if accept else {}
        problem = ""
        for attempt in range(self.params.retries + 1):
            if attempt and done_already and (found := done_already()) is not None:
                return httpx.Response(CREATED, json=found)
            wait = min(self.params.backoff * 2.0**attempt, self.params.longest_wait)
            try:
                answer = self._http.request(method, url, json=json, params=params, headers=headers)
            except httpx.TransportError as error:  # includes timeouts
                problem = type(error).__name__
            else:
                if answer.is_success or answer.status_code in allow:
                    return answer
                asked = _asked_to_wait(answer)
                if asked is None and answer.status_code < SERVER:
                    raise failed(answer)
                problem, wait = f"status {answer.status_code}", max(wait, asked or 0.0)
            if wait > self.params.longest_wait:
                raise ForgeError(
                    f"GitHub's rate limit: {method} {httpx.URL(url).path} may be asked again in {wait:.0f} s",
                    remedy="run the job again then: nothing is done twice",
                )
            if attempt < self.params.retries:
                time.sleep(wait)
        raise ForgeError(
            f"GitHub did not answer {method} {httpx.URL(url).path} ({problem}, {self.params.retries + 1}×)",
            remedy="look at GitHub's status page and run the job again: nothing is done twice",
        )


def _asked_to_wait(answer: httpx.Response) -> float | None:
    """Seconds to wait by a rate limit's answer; None if it is none.

    https://docs.github.com/rest/using-the-rest-api/rate-limits-for-the-rest-api
    """
    told, spent = answer.headers.get("retry-after", ""), answer.headers.get("x-ratelimit-remaining") == "0"
    secondary = "secondary rate limit" in answer.text.casefold()
    if answer.status_code not in (TOO_MANY, FORBIDDEN):
        return float(told) if told.isdigit() and answer.status_code >= SERVER else None
    if told.isdigit():
        return float(told)
    reset = answer.headers.get("x-ratelimit-reset", "")
    if spent and reset.isdigit():
        return max(float(reset) - time.time(), 0.0)
    if secondary:
        return SECONDARY_WAIT
    return 0.0 if spent or answer.status_code == TOO_MANY else None


def failed(answer: httpx.Response) -> ForgeError:
    """What GitHub said when it did not do what was asked."""
    try:
        message = str(answer.json().get("message", ""))
    except ValueError:
        message = ""
    asked = f"{answer.request.method} {answer.request.url.path}"
    return ForgeError(
        f"GitHub refused {asked}: {answer.status_code} {one_line(message)}".rstrip(),
        remedy="check the App's permissions on this repository and that the thing still exists",
    )
