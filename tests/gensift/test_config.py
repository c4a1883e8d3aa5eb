import json
from dataclasses import MISSING, FrozenInstanceError, dataclass
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gensift import config as c
from gensift.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Inner:
    start: int = c.option(0, help="first step", minimum=0)

    def __post_init__(self):
        c.check(self)


@dataclass(frozen=True, kw_only=True)
class Outer:
    keep: float = c.option(0.5, help="share kept", minimum=0, maximum=1)
    count: int = c.option(4, help="candidates", minimum=1, unit="rows")
    points: tuple[float, ...] = c.option((0.3, 0.6), help="checkpoints", minimum=0, maximum=1)
    mode: Literal["fast", "slow"] = c.option("fast", help="how")
    metric: str = c.option("mean", help="statistic", choices=("mean", "max"))
    limit: int | None = c.option(None, help="at most")
    fused: bool = c.option(False, help="fused")
    inner: Inner = c.option(Inner(), help="nested")
    weights: dict[str, float] = c.option({}, help="per reward")

    def __post_init__(self):
        c.check(self, self._conflicts())

    def _conflicts(self):
        if self.limit is not None and self.limit < self.count:
            yield f"`limit` {self.limit} is below `count` {self.count}"


@dataclass(frozen=True, kw_only=True)
class Required:
    name: str = c.option(help="must be given")


outers = st.builds(
    Outer,
    keep=st.floats(0, 1),
    count=st.integers(1, 50),
    points=st.lists(st.floats(0, 1), max_size=4).map(tuple),
    mode=st.sampled_from(["fast", "slow"]),
    metric=st.sampled_from(["mean", "max"]),
    limit=st.none() | st.integers(50, 99),
    fused=st.booleans(),
    inner=st.builds(Inner, start=st.integers(0, 9)),
    weights=st.dictionaries(st.text(max_size=3), st.floats(allow_nan=False), max_size=3),
)


@given(outers)
def test_dict_and_json_round_trip(config):
    as_dict = c.to_dict(config)
    assert c.from_dict(Outer, as_dict) == config
    assert c.from_dict(Outer, json.loads(json.dumps(as_dict))) == config


@given(outers)
def test_overrides_written_as_text_read_back_as_the_same_config(config):
    d = c.to_dict(config)
    pairs = [f"{k}={json.dumps(v) if isinstance(v, (list, dict)) else v}" for k, v in d.items()]
    assert c.from_dict(Outer, c.parse_overrides(pairs, Outer)) == config


def test_values_are_stored_as_the_type_of_their_field():
    config = Outer(keep=1, points=[0, 1], inner={"start": 3})
    assert type(config.keep) is float
    assert config.points == (0.0, 1.0) and type(config.points[0]) is float
    assert config.inner == Inner(start=3)
    with pytest.raises(FrozenInstanceError):
        config.keep = 0.1


def test_all_problems_come_in_one_error():
    with pytest.raises(ConfigError) as caught:
        c.from_dict(
            Outer,
            {"keeep": 1, "keep": 2, "count": True, "mode": "fats", "points": [0.1, -1],
             "inner": {"start": -1, "stop": 2}, "metric": "maxx", "limit": "no"},
        )  # fmt: skip
    assert caught.value.problems == (
        "`keeep` is not an option. Nearest: 'keep'",
        "`keep` is 2.0; allowed: 0 to 1",
        "`count` is True; allowed: an integer",
        "`points` is -1.0; allowed: 0 to 1",
        "`mode` is 'fats'; allowed: fast | slow",
        "`metric` is 'maxx'; allowed: 'mean', 'max'. Nearest: 'max'",
        "`limit` is 'no'; allowed: int or none",
        "in `inner`: `stop` is not an option. Known: start",
        "in `inner`: `start` is -1; allowed: at least 0",
    )
    assert "\n" not in str(caught.value)


def test_check_reports_bounds_and_conflicts_together():
    with pytest.raises(ConfigError, match=r"2 problems: .*0 to 1; `limit` 2 is below `count` 4"):
        Outer(keep=-0.1, limit=2)


def test_conflicts_are_not_computed_from_values_of_the_wrong_type():
    with pytest.raises(ConfigError) as caught:
        Outer(limit=2, count="many")
    assert caught.value.problems == ("`count` is 'many'; allowed: an integer",)


@pytest.mark.parametrize("keep", [float("nan"), 1.0001, -1e-9])
def test_nan_and_values_just_outside_are_refused(keep):
    with pytest.raises(ConfigError, match="`keep`"):
        Outer(keep=keep)


def test_unit_is_named():
    with pytest.raises(ConfigError, match="allowed: at least 1 rows"):
        Outer(count=0)


def test_missing_required_option_is_named():
    with pytest.raises(ConfigError, match="`name` is missing; give str"):
        c.from_dict(Required, {})


def test_defaults_are_not_shared():
    assert Outer().weights is not Outer().weights


@pytest.mark.parametrize(
    ("pair", "expected"),
    [
        ("keep=0.25", {"keep": 0.25}),
        ("points=0.3,0.4", {"points": [0.3, 0.4]}),
        ("points=[0.3, 0.4]", {"points": [0.3, 0.4]}),
        ("points=", {"points": []}),
        ("limit=none", {"limit": None}),
        ("limit=7", {"limit": 7}),
        ("fused=yes", {"fused": True}),
        ("mode=slow", {"mode": "slow"}),
        ("inner.start=4", {"inner": {"start": 4}}),
        ("metric=a=b", {"metric": "a=b"}),
        ('weights={"a": 1}', {"weights": {"a": 1}}),
    ],
)
def test_overrides_are_read_by_field_type(pair, expected):
    assert c.parse_overrides([pair], Outer) == expected


def test_all_bad_overrides_come_in_one_error():
    with pytest.raises(ConfigError) as caught:
        c.parse_overrides(["keep", "kep=1", "count=1.5", "inner.strat=1", "keep.x=1"], Outer)
    assert len(caught.value.problems) == 5
    assert "Nearest: 'keep'" in caught.value.problems[1]
    assert caught.value.problems[2] == "`count` is '1.5'; allowed: an integer"
    assert "Nearest: 'start'" in caught.value.problems[3]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.json", '{"keep": 0.25, "inner": {"start": 2}}'),
        ("a.toml", "keep = 0.25\n[inner]\nstart = 2\n"),
        ("a.yaml", "keep: 0.25\ninner:\n  start: 2\n"),
        ("a.yml", "keep: 0.25\ninner: {start: 2}\n"),
    ],
)
def test_the_same_config_from_every_kind_of_file(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    loaded = c.from_dict(Outer, c.load_file(tmp_path / name))
    assert loaded == Outer(keep=0.25, inner=Inner(start=2))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.ini", b"", "must end in"),
        ("a.json", b"{", "malformed"),
        ("a.json", b"[1]", "holds list"),
        ("a.toml", b"= 1", "malformed"),
        ("a.yaml", b"a: [", "malformed"),
        ("a.yaml", b"\xff\xfe\xfa", "malformed"),
        ("a.json", None, "No such file"),
    ],
)
def test_a_bad_file_gives_one_clear_line(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=message) as caught:
        c.load_file(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_saved_file_loads_as_the_same_config(tmp_path):
    config = Outer(keep=0.75, limit=9)
    c.save_file(config, tmp_path / "c.json")
    assert c.from_dict(Outer, c.load_file(tmp_path / "c.json")) == config
    assert [p.name for p in tmp_path.iterdir()] == ["c.json"]
    with pytest.raises(ConfigError, match="No such file"):
        c.save_file(config, tmp_path / "absent" / "c.json")
    with pytest.raises(ConfigError, match=r"in \.json"):
        c.save_file(config, tmp_path / "c.toml")


def test_merge_is_deep_and_leaves_its_arguments():
    first = {"a": {"x": 1, "y": 2}, "b": 1}
    assert c.merge(first, {"a": {"y": 3}}, {"b": {"z": 0}}) == {
        "a": {"x": 1, "y": 3},
        "b": {"z": 0},
    }
    assert first == {"a": {"x": 1, "y": 2}, "b": 1}


def test_hash_depends_on_content_only():
    assert c.config_hash({"a": (1, 2), "b": 2.5}) == c.config_hash({"b": 2.5, "a": [1, 2]})
    assert c.config_hash({"a": 1}) != c.config_hash({"a": 2})
    # A known value: a changed hash would orphan every run folder.
    assert c.config_hash({"a": 1}) == "015abd7f5cc57a2d"
    with pytest.raises(ConfigError, match="JSON values only"):
        c.config_hash({"a": object()})


def test_describe_gives_a_row_per_option():
    rows = {row.name: row for row in c.describe(Outer)}
    assert list(rows)[:3] == ["keep", "count", "points"]
    assert (rows["keep"].type, rows["keep"].default, rows["keep"].help) == (
        "float",
        0.5,
        "share kept",
    )
    assert (rows["keep"].minimum, rows["keep"].maximum) == (0, 1)
    assert rows["points"].type == "list of float"
    assert rows["mode"].type == "fast | slow"
    assert rows["metric"].type == "mean | max"
    assert rows["limit"].type == "int or none"
    assert rows["count"].unit == "rows"
    assert rows["inner.start"].help == "first step"
    assert rows["weights"].default == {}
    assert c.describe(Required)[0].default is MISSING
