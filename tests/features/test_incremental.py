"""One more day costs a day: only what is new is made, and the bytes are those of a run from nothing."""

from __future__ import annotations

import ast
import datetime as dt
import json
import random
import re
import shutil
from pathlib import Path

import polars as pl
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sekisho.cli.data import data
from sekisho.cli.features import features
from sekisho.data import validate
from sekisho.data.contract import COLUMNS
from sekisho.data.store import write_partition
from sekisho.data.synthetic import synthetic_bars
from sekisho.data.validate import validate_bars
from sekisho.errors import DataError
from sekisho.features import build, from_store
from sekisho.features.build import build_features
from sekisho.features.from_store import featurise_some, raw_partitions, validate_some
from sekisho.params import Params, load_params
from sekisho.partition_store import PartitionStore

REPO = Path(__file__).parents[2]
DAYS = ["2025-01-06", "2025-01-07", "2025-01-08", "2025-01-09", "2025-01-10", "2025-01-14"]


@pytest.fixture(scope="module")
def params() -> Params:
    """A lookback of 47 bars: it reaches into the day before, whose 66 bars suffice."""
    whole = load_params(REPO / "params.yaml")
    windows = {"return_windows": (3, 6), "vol_window": 41, "short_vol_window": 5, "volume_window": 20}
    assert build.lookback(whole.features.model_copy(update=windows)) == 47
    data = whole.data.model_copy(update={"max_quarantine_share": 0.02, "max_missing_sessions": 9})
    return whole.model_copy(update={"data": data, "features": whole.features.model_copy(update=windows)})


@pytest.fixture(scope="module")
def market() -> dict[str, pl.DataFrame]:
    """Raw bars of six sessions; one symbol lists on the fourth, one is gone from the fifth on."""
    bars = synthetic_bars(dt.date(2025, 1, 6), 6, seed=5)
    day = pl.col("session").cast(pl.String)
    late, gone = pl.col("symbol") == "SYN6", pl.col("symbol") == "SYN2"
    bars = bars.filter(~(late & (day < DAYS[3])) & ~(gone & (day >= DAYS[4])))
    return {str(session): part.select(list(COLUMNS)) for (session,), part in bars.group_by("session")}


class World:
    """Raw bars, a store, and both stages on them."""

    def __init__(self, root: Path, market: dict[str, pl.DataFrame], params: Params, store: str = "") -> None:
        self.root, self.market, self.params, self.raw = root, market, params, root / "raw"
        shutil.rmtree(root, ignore_errors=True)
        self.raw.mkdir(parents=True)
        self.store = store or str(root / "store")

    def add(self, day: str, change: float = 0.0) -> None:
        frame = self.market[day]
        if change:  # another price in one row; a bad row where it is below 0
            where = pl.int_range(pl.len()) == 5
            frame = frame.with_columns(
                pl.when(where).then(pl.col("high") * change).otherwise("high").alias("high")
            )
        write_partition(frame, self.raw / f"{day}.parquet")

    def outputs(self, store: PartitionStore | None, name: str) -> dict[str, bytes]:
        """All files of both stages; ``made`` says which partitions' features were computed."""
        out = self.root / name
        validate_bars(self.raw, out / "bars", out / "q", self.params.data, out / "validate.json", store)
        self.made = build_features(out / "bars", out / "features", self.params.features, store).made
        return {str(p.relative_to(out)): p.read_bytes() for p in out.rglob("*") if p.is_file()}

    def check(self) -> PartitionStore:
        """With the store the bytes are those of a run from nothing."""
        store = PartitionStore(self.store)
        fresh = self.outputs(None, "fresh")
        assert self.outputs(store, "kept") == fresh
        return store

    def objects(self) -> list[Path]:
        return sorted(p for p in Path(self.store).rglob("*") if p.is_file())


@pytest.fixture
def world(tmp_path: Path, market: dict[str, pl.DataFrame], params: Params) -> World:
    return World(tmp_path / "w", market, params)


@pytest.fixture
def judged(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Labels of the partitions that the contract was asked about."""
    labels: list[str] = []
    judge = validate.judge

    def counting(frame: pl.DataFrame, source: str, *rest: object) -> validate.Judgement:
        labels.append(Path(source).stem)
        return judge(frame, source, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(validate, "judge", counting)
    return labels


def test_one_more_day_validates_and_featurises_that_day_alone(world: World, judged: list[str]) -> None:
    for day in DAYS[:5]:
        world.add(day)
    store = PartitionStore(world.store)
    world.outputs(store, "kept")
    assert (judged, world.made) == (DAYS[:5], DAYS[:5])
    judged.clear()
    world.add(DAYS[5])
    world.outputs(store, "kept")
    assert (judged, world.made) == ([DAYS[5]], [DAYS[5]])
    world.check()


def test_a_changed_day_touches_itself_and_those_whose_lookback_reaches_it(
    world: World, judged: list[str]
) -> None:
    for day in DAYS:
        world.add(day)
    store = PartitionStore(world.store)
    world.outputs(store, "kept")
    judged.clear()
    world.add(DAYS[2], change=1.01)
    world.outputs(store, "kept")
    assert (judged, world.made) == ([DAYS[2]], [DAYS[2], DAYS[3]])


def test_a_day_that_comes_late_changes_the_warm_up_of_the_days_after_it(world: World) -> None:
    for day in DAYS[1:4]:
        world.add(day)
    world.check()
    world.add(DAYS[0])
    world.check()


def test_a_symbol_that_lists_changes_no_day_before(world: World) -> None:
    for day in DAYS[:3]:
        world.add(day)
    world.check()
    world.add(DAYS[3])
    world.outputs(PartitionStore(world.store), "kept")
    assert world.made == [DAYS[3]]
    assert set(pl.read_parquet(world.root / "kept/features" / f"{DAYS[3]}.parquet")["symbol"]) >= {"SYN6"}


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.sampled_from(DAYS), st.sampled_from([0.0, 1.01, 0.5])),
        st.tuples(st.just("remove"), st.sampled_from(DAYS), st.just(0.0)),
        st.tuples(st.sampled_from(["damage", "cut", "lose"]), st.just(""), st.floats(0, 0.999)),
    ),
    min_size=3,
    max_size=8,
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS, block=st.sampled_from([1, 1000, 10**6]))
def test_whatever_is_added_changed_removed_or_damaged_the_bytes_are_those_of_a_run_from_nothing(
    steps: list[tuple[str, str, float]], block: int, tmp_path: Path, market: dict[str, pl.DataFrame],
    params: Params, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    world = World(tmp_path / "property", market, params)
    monkeypatch.setattr(build, "BLOCK_ROWS", block)
    world.add(DAYS[1])
    for kind, day, value in steps:
        if kind == "add":
            world.add(day, value)
        elif kind == "remove" and len(list(world.raw.iterdir())) > 1:
            (world.raw / f"{day}.parquet").unlink(missing_ok=True)
        elif kind in ("damage", "cut", "lose") and (objects := world.objects()):
            spoil(objects[int(value * len(objects))], kind)
        world.check()


def spoil(path: Path, how: str) -> None:
    whole = path.read_bytes()
    if how == "lose":
        path.unlink()
    elif how == "cut":
        path.write_bytes(whole[: len(whole) // 2])
    else:
        place = random.Random(len(whole)).randrange(len(whole))
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])


@pytest.mark.parametrize("kind", ["records", "blobs"])
@pytest.mark.parametrize("how", ["damage", "cut"])
def test_every_damaged_object_is_named_not_used_and_made_anew(world: World, kind: str, how: str) -> None:
    for day in DAYS[:3]:
        world.add(day)
    world.check()
    before = {path: path.read_bytes() for path in world.objects()}
    damaged = [path for path in world.objects() if path.parent.name == kind]
    for path in damaged:
        spoil(path, how)
    named = world.check().damaged
    assert {path.name for path in damaged} == {line.rsplit("/", 1)[1].split(":")[0] for line in named}
    assert {path: path.read_bytes() for path in world.objects()} == before
    assert world.check().damaged == []


def test_a_record_under_another_key_is_not_taken(world: World) -> None:
    store = PartitionStore(world.store)
    store.put("a", {"kept": "x"}, [])
    records = Path(world.store) / "records"
    (records / "b").write_bytes((records / "a").read_bytes())
    assert store.record("b") is None
    assert store.damaged


@pytest.mark.parametrize("name", ["max_gap_bars", "max_delay", "max_quarantine_share"])
def test_a_parameter_that_judges_makes_all_anew_and_one_of_the_whole_does_not(
    name: str, world: World, params: Params
) -> None:
    world.add(DAYS[0])
    path = world.raw / f"{DAYS[0]}.parquet"
    key = validate.validated_key(path, "0", params.data)
    assert key != validate.validated_key(path, "0", params.data.model_copy(update={name: 1}))
    assert key == validate.validated_key(
        path, "0", params.data.model_copy(update={"max_missing_sessions": 1})
    )


def closure(module: str) -> set[str]:
    """Modules of the package that a module imports, directly or not, as paths under it."""
    source, waiting, found = REPO / "src/sekisho", [module], set[str]()
    while waiting:
        file = waiting.pop()
        found.add(file)
        for node in ast.walk(ast.parse((source / file).read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("sekisho."):
                names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
                paths = [name.removeprefix("sekisho.").replace(".", "/") + ".py" for name in names if name]
                waiting += [path for path in paths if (source / path).is_file() and path not in found]
    return found


DECIDES_NOTHING = {"errors.py", "params.py", "objects.py", "partition_store.py", "data/tracked.py"}


@pytest.mark.parametrize(
    ("module", "named"), [("data/validate.py", validate.JUDGES), ("features/build.py", build.MAKERS)]
)
def test_a_key_covers_all_code_that_decides_the_result(module: str, named: tuple[str, ...]) -> None:
    assert closure(module) - DECIDES_NOTHING == set(named)


def test_a_day_that_the_calendar_does_not_know_yet_is_judged_each_time(world: World) -> None:
    world.add(DAYS[0])
    frame = world.market[DAYS[1]].with_columns(pl.col("ts_close", "available_at").dt.offset_by("300y"))
    whole = world.params.data.model_copy(update={"max_quarantine_share": 1.0})
    write_partition(frame, world.raw / f"{DAYS[1]}.parquet")
    store = PartitionStore(world.store)
    ends = validate.BarEnds(validate.Calendar("XTKS", "5min"))
    for _ in range(2):
        path = world.raw / f"{DAYS[1]}.parquet"
        assert validate.validate_partition(path, validate.file_md5(path), ends, whole, store).made


def test_bars_that_overlap_are_found_among_kept_partitions(world: World) -> None:
    world.add(DAYS[0])
    world.check()
    shutil.copy(world.raw / f"{DAYS[0]}.parquet", world.raw / f"{DAYS[0]}b.parquet")
    for _ in range(2):
        with pytest.raises(DataError, match="rule increasing: SYN1 begins"):
            world.outputs(PartitionStore(world.store), "kept")


@pytest.mark.parametrize("kind", ["folder", "s3"])
def test_a_fan_out_in_any_order_leaves_the_stage_only_the_assembly(
    kind: str, tmp_path: Path, market: dict[str, pl.DataFrame], params: Params, judged: list[str],
    request: pytest.FixtureRequest,
) -> None:  # fmt: skip
    address = request.getfixturevalue("s3") if kind == "s3" else ""
    world = World(tmp_path / "w", market, params, address)
    for day in DAYS:
        world.add(day)
    store = PartitionStore(world.store)
    assert [part.label for part in raw_partitions(world.raw, params, store) if not part.validated] == DAYS
    for day in (DAYS[3], DAYS[0], DAYS[5], DAYS[1]):
        validate_some(world.raw, [day], params, store)
        assert featurise_some(world.raw, [day], params, store) == [day]
    listed = raw_partitions(world.raw, params, store)
    assert [part.label for part in listed if not part.validated] == []  # lookbacks brought the others along
    assert [part.label for part in listed if not part.featurised] == [DAYS[2], DAYS[4]]
    featurise_some(world.raw, [DAYS[2], DAYS[4]], params, store)
    assert all(part.featurised for part in raw_partitions(world.raw, params, store))
    assert sorted(judged) == DAYS
    judged.clear()
    world.outputs(store, "kept")
    assert (judged, world.made) == ([], [])
    world.check()


def test_a_machine_with_only_its_partitions_of_a_tracked_folder_does_them(
    world: World, params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DVC's listing names the partitions; one that the lookback needs and is not here is asked for."""
    for day in DAYS:
        world.add(day)
    listing = {f"{day}.parquet": validate.file_md5(world.raw / f"{day}.parquet") for day in DAYS}
    for day in (DAYS[0], DAYS[4], DAYS[5]):
        (world.raw / f"{day}.parquet").unlink()
    monkeypatch.setattr("sekisho.data.tracked.listing", lambda folder, root=Path(): listing)
    monkeypatch.setattr(from_store, "listing", lambda folder: listing)
    monkeypatch.setattr("sekisho.data.tracked._tracked_top", lambda folder, root: (folder, "raw.dvc"))
    store = PartitionStore(world.store)
    assert featurise_some(world.raw, [DAYS[3]], params, store) == [DAYS[3]]
    shown = raw_partitions(world.raw, params, store)
    assert [part.label for part in shown] == DAYS
    assert [part.bytes is None for part in shown] == [True, False, False, False, True, True]
    with pytest.raises(DataError, match=f"{DAYS[0]}.parquet: not on this disk") as caught:
        featurise_some(world.raw, [DAYS[1]], params, store)
    assert f"dvc pull {world.raw / DAYS[0]}.parquet" in caught.value.remedy


def test_features_need_no_raw_file_where_the_store_has_the_validated_bars(
    world: World, params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    for day in DAYS:
        world.add(day)
    store = PartitionStore(world.store)
    validate_some(world.raw, DAYS, params, store)
    listing = {f"{day}.parquet": validate.file_md5(world.raw / f"{day}.parquet") for day in DAYS}
    monkeypatch.setattr(from_store, "listing", lambda folder: listing)
    away = world.raw.rename(world.raw.with_name("away"))
    assert featurise_some(world.raw, [DAYS[3]], params, store) == [DAYS[3]]
    away.rename(world.raw)
    world.check()
    assert DAYS[3] not in world.made


def run(command: object, *words: object) -> str:
    result = CliRunner().invoke(command, [str(word) for word in words], catch_exceptions=False)  # type: ignore[arg-type]
    assert result.exit_code == 0, result.output
    return result.output


def test_the_commands_list_fan_out_and_assemble(
    world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shutil.copy(REPO / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    from_, store = ["--raw", world.raw], ["--store", world.store]
    for day in DAYS[:4]:
        world.add(day)
    labels = json.loads(run(data, "partitions", *from_, *store, "--new", "--labels"))
    assert labels == DAYS[:4]
    for label in labels:
        assert json.loads(run(data, "validate", *from_, *store, "--partition", label, "--json"))["made"] == [
            label
        ]
        assert json.loads(run(features, *from_, *store, "--partition", label, "--json"))["made"] == [label]
    assert run(data, "partitions", *from_, *store, "--new") == ""
    assert not (tmp_path / "build").exists()
    shown = json.loads(run(data, "partitions", *from_, *store, "--json"))
    assert [set(part) for part in shown] == 4 * [
        {"label", "path", "bytes", "digest", "validated", "featurised"}
    ]
    run(data, "validate", *from_, *store)
    assert json.loads(run(features, *store, "--json"))["made"] == []


@pytest.mark.parametrize("label", ["1999", "", ".", f"{DAYS[0]}.parquet"])
def test_a_partition_of_no_such_name_is_refused(label: str, world: World, params: Params) -> None:
    world.add(DAYS[0])
    for action in (validate_some, featurise_some):
        with pytest.raises(DataError, match=rf"--partition '{re.escape(label)}': .* has no such partition"):
            action(world.raw, [label], params, PartitionStore(world.store))


@pytest.mark.parametrize("lost", ["kept", "bad", "table"])
def test_a_partition_whose_bytes_the_store_has_lost_is_listed_as_new_and_made_again(
    lost: str, world: World, params: Params
) -> None:
    for day in DAYS[:4]:
        world.add(day, change=0.5 if day == DAYS[1] else 0.0)  # one bad row
    store = PartitionStore(world.store)
    validate_some(world.raw, DAYS[:4], params, store)
    featurise_some(world.raw, DAYS[:4], params, store)
    records = [json.loads(path.read_text())["record"] for path in Path(world.store, "records").iterdir()]
    named = {blob for record in records if (blob := record.get(lost))}
    whole = {path.name: path.read_bytes() for path in Path(world.store, "blobs").iterdir()}
    victim = next(iter(named))
    Path(world.store, "blobs", victim).unlink()

    def lacking() -> list[str]:
        parts = raw_partitions(world.raw, params, store)
        return [part.label for part in parts if not (part.featurised if lost == "table" else part.validated)]

    (label,) = lacking()
    (validate_some if lost != "table" else featurise_some)(world.raw, [label], params, store)
    assert lacking() == []
    assert {path.name: path.read_bytes() for path in Path(world.store, "blobs").iterdir()} == whole
