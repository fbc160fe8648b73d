"""Configs: what a good one gives, and what is said about a wrong one."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs._config import Config, config_hash, load_config, parse_config, resolved
from nimc_spark.data.declarations import Bucketize, Id, OneHot, RatingSvd
from nimc_spark.errors import UsageError
from nimc_spark.io.sources import Source

REPOSITORY = Path(__file__).parents[3]
SMALL = """
lake: lake/small
sources:
  ratings: {path: r.csv, schema: "u INT, i INT, r DOUBLE, t LONG", options: {header: true, sep: ";"}}
  users: {path: u.csv, schema: "u INT, age INT, sex STRING"}
columns: {user: u, item: i, rating: r, time: t}
rating_range: [1, 5]
features:
  users: [{kind: bucketize, column: age, splits: [18, 35]}, {kind: one_hot, column: sex}, {kind: id}]
model: {rank: 3, activation: tanh, reg: {users: {attributes: 4, id: {factors: 1, linear: 2}}, items: 3, power: 0.5}}
"""


@pytest.fixture
def small(tmp_path: Path) -> str:
    path = tmp_path / "small.yaml"
    path.write_text(SMALL)
    return str(path)


def faults(path: str, *overrides: str) -> list[str]:
    with pytest.raises(UsageError) as caught:
        load_config(path, overrides)
    assert caught.value.exit_code == 2
    return str(caught.value).splitlines()


def test_a_good_config_gives_its_values(small: str) -> None:
    config = load_config(small)
    assert config.sources.ratings.readable() == Source(
        "r.csv", "csv", {"header": "true", "sep": ";"}, "u INT, i INT, r DOUBLE, t LONG"
    )
    assert config.features.users == (Bucketize(column="age", splits=(18, 35)), OneHot(column="sex"), Id())
    assert config.rating_range == (1.0, 5.0)
    assert (config.split.by, config.split.fraction, config.split.seed) == ("user", 0.2, 0)


def test_keys_may_be_merged_from_an_anchor(tmp_path: Path) -> None:
    path = tmp_path / "merged.yaml"
    path.write_text(f"{SMALL}score: &own {{k: 7, reasons: 2}}\npredict: {{reasons: 3, <<: *own}}\n")
    config = load_config(str(path))
    assert (config.predict.k, config.predict.reasons, config.score.reasons) == (7, 3, 2)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("members: &m {a: *m}", "no plain values: Circular reference detected"),
        (f"name: 0x{'f' * 5000}", "no plain values: Exceeds the limit"),
        ("score: {k: 1, k: 2}", "key 'k' given twice"),
        ("score: {2025-01-06: 1}", "cannot be a key"),
        ("extends: itself.yaml", "itself.yaml: cannot be read: "),
        ('name: !!int ""', "not valid YAML"),
        ("name: !!bool maybe", "not valid YAML"),
        ("name: !!timestamp abc", "not valid YAML"),
        ('extends: "a\\0b"', "must be the path of another config file"),
    ],
)
def test_texts_that_the_loader_stumbles_over(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "itself.yaml").symlink_to("itself.yaml")
    path = tmp_path / "odd.yaml"
    path.write_text(f"{SMALL}{text}\n")
    (fault,) = faults(str(path))
    assert said in fault


def test_an_anchor_that_merges_another_may_be_merged(tmp_path: Path) -> None:
    path = tmp_path / "deep.yaml"
    inner = """
extends: small.yaml
score: &a {k: 7, reasons: 2}
predict: {<<: &b {<<: *a, k: 8}, reasons: 3}
"""
    (tmp_path / "small.yaml").write_text(SMALL)
    path.write_text(inner)
    config = load_config(str(path))
    assert (config.predict.k, config.predict.reasons) == (8, 3)


def test_an_override_of_too_many_keys(small: str) -> None:
    (fault,) = faults(small, f"model.{'a.' * 3000}b=1")
    assert "no plain values: maximum recursion depth exceeded" in fault


def test_a_readers_flag_is_true_or_false(small: str) -> None:
    (fault,) = faults(small, "sources.ratings.options={Header: 1}")
    assert "option Header = '1': must be true or false" in fault


def test_features_that_go_by_the_id_need_no_source(small: str) -> None:
    config = load_config(small, ["features.items=[{kind: rating_svd, rank: 3}, {kind: id}]"])
    assert config.features.items == (RatingSvd(rank=3), Id())


def test_the_model_gives_only_what_was_set(small: str) -> None:
    reg = {"users": {"attributes": 4.0, "id": {"factors": 1.0, "linear": 2.0}}, "items": 3.0, "power": 0.5}
    assert load_config(small).model.settings() == {"rank": 3, "activation": "tanh", "reg": reg}
    assert load_config(small, ["model={baseline: none, linear: false, seed: null}"]).model.settings() == {
        "baseline": "none",
        "linear": False,
    }


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.rnk=3", 'model.rnk: unknown key; did you mean "rank"?'),
        ("lak=3", 'lak: unknown key; did you mean "lake"?'),
        ("sources.users.pth=x", 'sources.users.pth: unknown key; did you mean "path"? allowed: path, format'),
        ("model.reg.users.id.factos=1", 'model.reg.users.id.factos: unknown key; did you mean "factors"?'),
        ("model.rank=0", "model.rank = 0: should be greater than or equal to 1; allowed: an integer from 1 to 1000"),
        ("model.rank=1001", "model.rank = 1001: should be less than or equal to 1000"),
        ("model.rank=true", "model.rank = True: should be a valid integer"),
        ("model.rank=2.5", "model.rank = 2.5: should be a valid integer"),
        ("model.tolerance=.inf", "model.tolerance = inf: should be a finite number"),
        ("model.activation=tanhh", "model.activation: activation 'tanhh' is not known; allowed: identity"),
        ("model.activation={users: foo, items: relu}", "model.activation.users: activation 'foo' is not known"),
        ("model.baseline=[user, itm]", "model.baseline[1] = 'itm': should be 'global', 'item' or 'user'"),
        ("model.reg=-1", "model.reg = -1: should be greater than or equal to 0"),
        ("model.reg.items=-1", "model.reg.items = -1: should be greater than or equal to 0"),
        ("split.fraction=1", "split.fraction = 1"),
        ("split.by=users", "split.by = 'users': should be 'user', 'item', 'both', 'time' or 'random'"),
        ("rating_range=[5, 1]", "rating_range = [5.0, 1.0]: the lowest must be below the highest"),
        ("columns.user=null", "columns.user = None: should be a valid string"),
        ("columns={user: u, item: i}", "columns.rating: missing; give: the rating, a number"),
        ("columns={user: u, item: i, rating: r}\nduplicates=last", "duplicates: last needs columns.time"),
        ("columns={user: u, item: i, rating: r}\nsplit={by: time, fraction: 0.1}", "split.by: time needs columns.time"),
        ("sources.users=null", "features.users names columns, but there is no sources.users"),
        ("sources.ratings.schema=null", "sources.ratings: csv needs a schema"),
        ("sources.ratings.options={mode: FAILFAST}", "sources.ratings: option mode: set by the reader itself"),
        ("features.users=[{kind: one_hott, column: x}]", "features.users: feature 0: unknown kind 'one_hott'"),
        ("features.users=3", "features.users = 3: should be a valid array"),
        ("name=../x", "name = '../x'"),
    ],
)
def test_a_wrong_value_is_named_with_its_key_and_what_is_allowed(small: str, override: str, message: str) -> None:
    overrides = override.split("\n")
    (line,) = faults(small, *overrides)
    origin, _, _ = line.partition(f": {message}")
    assert origin in (f"--set {overrides[-1]}", " ".join([small, *(f"--set {own}" for own in overrides)]))


def test_all_faults_are_told_at_once(small: str) -> None:
    Path(small).write_text(SMALL + "splitt: 1\n")
    lines = faults(small, "model.rank=0", "columns.usr=x", "score.k=0")
    origins = ["--set columns.usr=x", "--set model.rank=0", "--set score.k=0", small]
    assert [line.split(": ")[0] for line in lines] == origins
    assert [line.split(": ")[1].split(" ")[0] for line in lines] == ["columns.usr", "model.rank", "score.k", "splitt"]
    # A key that begins like another is another.
    Path(small).write_text(SMALL.replace("rank: 3", "rank: 0"))
    assert [line.split(": ")[0] for line in faults(small, "model.r=3")] == [small, "--set model.r=3"]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.rank", "--set model.rank: must be dotted.key=value"),
        ("model..rank=3", "--set model..rank=3: must be dotted.key=value"),
        ("lake.x=3", "--set lake.x=3: lake is 'lake/small', not a mapping"),
        ("lake=[", "--set lake=[: the value is not valid YAML"),
    ],
)
def test_a_wrong_override_is_quoted(small: str, override: str, message: str) -> None:
    assert faults(small, override)[0].startswith(message)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "not valid YAML"),
        ("a: 1\na: 2", "key 'a' given twice"),
        ("- 1", "holds a list, but a config is a mapping"),
        ("", "holds nothing, but a config is a mapping"),
        ("a: !!python/object/apply:os.getcwd []", "not valid YAML"),
        ("extends: nowhere.yaml", "no such config file"),
        ("extends: bad.yaml", "goes round in a circle"),
        ("extends: [x]", "must be the path of another config file"),
    ],
)
def test_a_file_that_is_no_config(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    assert message in faults(str(path))[0]


@pytest.mark.parametrize(("name", "message"), [("none.yaml", "no such config file"), (".", "cannot be read")])
def test_a_file_that_cannot_be_read(tmp_path: Path, name: str, message: str) -> None:
    assert message in faults(str(tmp_path / name))[0]


def test_extends_merges_and_replaces_sources_as_a_whole(small: str, tmp_path: Path) -> None:
    child = tmp_path / "child.yaml"
    child.write_text(
        "extends: small.yaml\nsources: {ratings: {path: p, format: parquet}}\nmodel: {rank: 5}\nfeatures: {users: []}"
    )
    config = load_config(str(child), ["model.reg=1e-2"])
    assert config.sources.ratings.readable() == Source("p", "parquet", {}, None)
    assert config.sources.users is not None
    assert config.model.settings() == {"rank": 5, "activation": "tanh", "reg": 0.01}
    assert config.features.users == ()


MEMBERS = """
members:
  warm: {features: {users: [{kind: id}]}, model: {rank: 5, reg: {items: 2, users: {id: {linear: 4}}}}}
  cold: {}
router:
  known_user/known_item: warm
  known_user/new_item: warm
  new_user/known_item: cold
  new_user/new_item: cold
"""


@pytest.fixture
def several(small: str, tmp_path: Path) -> str:
    path = tmp_path / "several.yaml"
    path.write_text(f"extends: small.yaml\n{MEMBERS}")
    return str(path)


def test_members_have_features_and_model_of_their_own_over_those_of_the_config(small: str, several: str) -> None:
    config = load_config(several, ["members.cold.model.seed=3"])
    members = config.by_member()
    assert list(members) == ["warm", "cold"]
    assert members["warm"].features.users == (Id(),)
    assert members["warm"].model.settings() == {
        "rank": 5,
        "activation": "tanh",
        "reg": {"users": {"id": {"factors": 1.0, "linear": 4.0}}, "items": 2.0, "power": 0.5},
    }
    assert members["cold"].features == config.features
    assert members["cold"].model.settings() == {**config.model.settings(), "seed": 3}
    assert config.declared("users") == (Id(), *config.features.users[:2])
    assert load_config(small).by_member() == {"main": load_config(small)}
    # Written out and read again it is the same.
    assert parse_config(dict(resolved(config))) == config
    assert parse_config(dict(resolved(config))).by_member() == members


def test_a_member_leaves_out_penalties_of_features_that_it_does_not_have(several: str) -> None:
    penalties = "model.reg={users: {attributes: 4, id: 3, typo: 2}, items: 1}"
    config = load_config(several, [penalties, "members.cold.features.users=[{kind: one_hot, column: sex}]"])
    reg = {name: own.model.settings()["reg"]["users"] for name, own in config.by_member().items()}
    assert reg == {
        # What nobody has is left for the training to refuse.
        "warm": {"id": {"linear": 4.0}, "typo": 2.0},
        "cold": {"attributes": 4.0, "typo": 2.0},
    }


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("members.cold=null", "members.cold = None: should be an object"),
        ("members={only: {}}", "members: found only; give two or more, each with a name"),
        ("members={}", "members: found none; give two or more, each with a name"),
        ("members.a/b={}", "members: the name 'a/b' is not allowed; allowed: letters, digits, . _ -"),
        ("members.third={}", "router: no cell names the member third: name it for one, or leave it out"),
        ("members.warm.model.rnk=3", 'members.warm.model.rnk: unknown key; did you mean "rank"?'),
        ("members.warm.modle={}", 'members.warm.modle: unknown key; did you mean "model"? allowed: features, model'),
        ("members.warm.features.users=[{kind: idd}]", "members.warm.features.users: feature 0: unknown kind 'idd'"),
        (
            "members.cold.features.items=[{kind: one_hot, column: x}]",
            "members.cold.features.items names columns, but there is no sources.items",
        ),
        ("router={}", "router.known_user/known_item: missing; give one of the members: warm, cold"),
        (
            "router.new_user=cold",
            "router: unknown cell 'new_user'; allowed: known_user/known_item, known_user/new_item",
        ),
        ("router.new_user/new_item=mild", "router.new_user/new_item = 'mild': no such member; allowed: warm, cold"),
    ],
)
def test_members_and_router_that_do_not_fit_are_refused(several: str, override: str, message: str) -> None:
    (line,) = faults(several, override)
    origin, _, _ = line.partition(f": {message}")
    assert origin in (f"--set {override}", f"{several} --set {override}")


def test_equal_configs_have_equal_hashes(small: str, tmp_path: Path) -> None:
    other = tmp_path / "other.yaml"
    other.write_text("extends: small.yaml\nmodel: {activation: tanh}\n")
    assert config_hash(load_config(small)) == config_hash(load_config(str(other)))
    assert config_hash(load_config(small)) != config_hash(load_config(small, ["split.seed=1"]))
    assert len(config_hash(load_config(small))) == 16


@pytest.mark.parametrize(("time", "policy"), [("t", "last"), ("null", "reject")])
def test_the_duplicate_policy_follows_the_time_column(small: str, time: str, policy: str) -> None:
    assert load_config(small, [f"columns.time={time}"]).duplicate_policy() == policy


@pytest.mark.parametrize("name", ["ml-100k.yaml", "ml-100k-grouplens.yaml"])
def test_the_shipped_configs_are_valid(name: str) -> None:
    config: Config = load_config(str(REPOSITORY / "conf" / name))
    assert config.columns.title == "title"
    assert [d.kind for d in config.features.items][-1] == "id"
