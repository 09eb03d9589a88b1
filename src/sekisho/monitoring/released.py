"""The release whose predictions are judged: its files checked, and what of them the check needs."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from sekisho.errors import CannotCheck, Refused
from sekisho.monitoring.reference import BAR_RETURN, Reference, load_reference
from sekisho.params import FeatureParams, MarketParams, MonitoringParams, Section, parse_yaml
from sekisho.release.manifest import check_files, read_manifest

REMEDY = "pull the release with dvc"
AnySection = TypeVar("AnySection", bound=Section)


@dataclass(frozen=True)
class JudgedRelease:
    """The release whose predictions are judged, its files checked against its manifest."""

    model: str
    seq: int
    digest: str
    content: Path
    calendar: str
    bar: str
    reference: Reference

    @property
    def shape(self) -> tuple[int, int]:
        """Assets and features of an observation, without the weight column."""
        return len(self.reference.symbols), len(self.reference.features) - 1

    @property
    def returns(self) -> Path:
        """Net returns by session of its backtest."""
        return self.content / "returns.csv"

    def features(self) -> FeatureParams:
        """How its features are computed.

        Raises:
            CannotCheck: its parameters are missing or another version's.
        """
        return self._section("features", FeatureParams)

    def market(self) -> MarketParams:
        """Costs and limits that it was judged under.

        Raises:
            CannotCheck: its parameters are missing or another version's.
        """
        return self._section("market", MarketParams)

    def _section(self, name: str, kind: type[AnySection]) -> AnySection:
        path = self.content / "params.yaml"
        try:
            return kind.model_validate(parse_yaml(path.read_bytes())[name])
        except OSError as error:
            raise CannotCheck(f"{path}: {error.strerror}", remedy=REMEDY) from error
        except (KeyError, TypeError, ValidationError) as error:
            raise CannotCheck(
                f"{path}: section {name} is another version's: {error}", remedy="check with its own version"
            ) from error


def open_release(release: Path, params: MonitoringParams) -> JudgedRelease:
    """Check the release's files against its manifest and load what the check needs.

    Raises:
        Refused: a file differs from the manifest.
        CannotCheck: a file is missing or unreadable.
    """
    manifest, digest = read_manifest(release)
    content = release / "content"
    check_files(manifest, content)
    try:
        about: dict[str, Any] = json.loads((content / "observation.json").read_text(encoding="utf-8"))
        calendar, bar = str(about["calendar"]), str(about["bar"])
        order = (tuple(about["symbols"]), (*about["features"], BAR_RETURN))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CannotCheck(f"{content}/observation.json: {error!r}", remedy=REMEDY) from error
    reference = load_reference(content / "reference.json", params)
    if (reference.symbols, reference.features) != order:
        raise Refused(
            "monitoring.reference-series",
            expected=f"a reference of {order}",
            found=f"one of {(reference.symbols, reference.features)}",
            remedy="export the release again: its reference was made from other data",
        )
    return JudgedRelease(manifest.model, manifest.seq, digest, content, calendar, bar, reference)
