"""params.yaml: every mistake is named by its key, and nothing is assumed."""

from __future__ import annotations

from pathlib import Path

import pytest

from sekisho.errors import ParamsError
from sekisho.params import load_params

TEXT = (Path(__file__).parents[1] / "params.yaml").read_text(encoding="utf-8")


def changed(tmp_path: Path, old: str, new: str) -> Path:
    assert old in TEXT
    path = tmp_path / "params.yaml"
    path.write_text(TEXT.replace(old, new, 1), encoding="utf-8")
    return path


def test_the_committed_parameters_are_read(tmp_path: Path) -> None:
    assert load_params(changed(tmp_path, "XTKS", "XTKS")).data.calendar == "XTKS"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("  folds: ", "  fold: 3\n  folds: ", "split.fold: unknown key"),
        ("  folds: ", "  foldz: ", "split.folds: missing key"),
        ("  discount: 0.95", "  discount: 1.5", "ppo.discount: .*less than or equal to 1, found 1.5"),
        ("  calendar: XTKS", "  calendar: [XTKS]", "data.calendar: .*valid string"),
        ("  bar: 5min", "  bar: 7min", "data.bar: .*found '7min'"),
        ("bootstrap_samples: 2000", "bootstrap_samples: 1", "bootstrap_samples: .*to 500, found 1"),
        ("clip: 3.0", "clip: .inf", "features.clip: .*finite number, found inf"),
        ("capital: 1.0e+9", "capital: .nan", "market.capital: .*finite number, found nan"),
        ("split:", "split: [", r"not valid YAML: line \d+: "),
        (
            "bar: 5min",
            "bar: 5min\n  bar: 1d",
            'not valid YAML: line 7: found duplicate key "bar"[^\n]*\n  remedy: ',
        ),
    ],
)
def test_a_mistake_is_named_by_its_key(tmp_path: Path, old: str, new: str, message: str) -> None:
    with pytest.raises(ParamsError, match=message) as caught:
        load_params(changed(tmp_path, old, new))
    assert "params.yaml" in str(caught.value)


def test_a_seed_that_is_given_twice_is_named(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match=r"train.*seeds must differ"):
        load_params(changed(tmp_path, "seeds: [1, 2]", "seeds: [2, 2]"))


def test_a_missing_file_says_where_to_run(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match="no such file"):
        load_params(tmp_path / "params.yaml")


def test_numbers_as_dvc_writes_them_are_numbers(tmp_path: Path) -> None:
    assert (
        load_params(changed(tmp_path, "commission: 0.2e-4", "commission: 2e-05")).market.commission == 2e-05
    )
