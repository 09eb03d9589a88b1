"""When a release was in force: per environment, until another one, its end or a revocation."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest
from tests.release.workshop import ROOT, Workshop

from sekisho.release.audit import GENESIS, Event
from sekisho.release.manifest import Manifest, read_manifest
from sekisho.release.policy import load_policy
from sekisho.release.trace import _in_force, spans_in_force

START = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


def at(day: float) -> dt.datetime:
    return START + dt.timedelta(days=day)


def event(day: float, what: Any, digest: str | None, environment: str, content: str | None = None) -> Event:
    end = at(day + 90).strftime("%Y-%m-%dT%H:%M:%SZ")
    details = {"environment": environment, "expires": end, "content": content}
    model, seq = ("policy", 1) if digest else (None, None)
    return Event(
        line=1, previous=GENESIS, at=at(day), event=what, actor="a", model=model, seq=seq,
        manifest_digest=digest, details=details,
    )  # fmt: skip


@pytest.fixture
def release(shop: Workshop) -> tuple[Manifest, str]:
    return read_manifest(shop.release)


OTHER = "f" * 64


def said(release: tuple[Manifest, str], day: float, *events: Event) -> str:
    manifest, digest = release
    return _in_force(spans_in_force(list(events), load_policy(ROOT / "trust"), manifest, digest), at(day))


def test_another_release_ends_what_was_in_force(release: tuple[Manifest, str]) -> None:
    log = event(1, "promote", release[1], "production"), event(5, "promote", OTHER, "production")
    assert said(release, 4, *log) == f"promoted to production since {at(1)}"
    assert said(release, 6, *log).startswith(f"not in force, but in production from {at(1)} to {at(5)}")
    assert said(release, 0, *log).startswith("not in force")


def test_a_prediction_in_staging_before_production_is_no_false_record(release: tuple[Manifest, str]) -> None:
    log = event(1, "promote", release[1], "staging"), event(9, "promote", release[1], "production")
    assert said(release, 4, *log) == f"promoted to staging since {at(1)}"
    assert said(release, 10, *log) == f"promoted to staging since {at(1)}, production since {at(9)}"


def test_a_promotion_that_ran_out_is_not_in_force_and_a_renewed_one_is(release: tuple[Manifest, str]) -> None:
    first, again = event(1, "promote", release[1], "staging"), event(80, "promote", release[1], "staging")
    assert said(release, 95, first).startswith("not in force")
    assert said(release, 95, first, again) == f"promoted to staging since {at(1)}"


def test_a_revocation_ends_it_where_its_list_counts(release: tuple[Manifest, str]) -> None:
    promoted = event(1, "promote", release[1], "staging")
    content = release[0].content_sha256
    for revoked in (
        event(3, "revoke", release[1], "production"),  # one list with staging
        event(3, "revoke", OTHER, "staging", content),  # the same content under another seq
    ):
        assert said(release, 2, promoted, revoked) == f"promoted to staging since {at(1)}"
        assert said(release, 4, promoted, revoked).startswith("not in force")
    assert said(release, 4, promoted, event(3, "revoke", release[1], "local")).startswith("promoted")


def test_what_was_never_promoted_was_never_in_force(release: tuple[Manifest, str]) -> None:
    assert said(release, 4, event(1, "promote", OTHER, "staging")).startswith("never in force")
