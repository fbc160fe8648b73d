from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable
from decimal import Decimal
from itertools import permutations
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from pyspark.ml.linalg import SparseVector, Vectors, VectorUDT
from pyspark.sql import functions as F
from pyspark.sql.types import IntegerType, StructField, StructType

from nimc_spark.data.declarations import Declaration, parse_declarations, ready_features_declaration
from nimc_spark.engine.feature_checks import length_faults, non_finite, value_faults
from nimc_spark.engine.features import FittedFeatures, fit_features
from nimc_spark.errors import DataError

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

DECLARATIONS = parse_declarations(
    [
        {"kind": "const"},
        {"kind": "numeric", "column": "income"},
        {"kind": "bucketize", "column": "the `age`.x", "splits": [18, 25.5]},
        {"kind": "id"},
        {"kind": "one_hot", "column": "job", "group": "work"},
        {"kind": "multi_hot", "column": "genres", "separator": "|"},
        {"kind": "multi_hot", "column": "tags"},
        {"kind": "passthrough", "columns": ["f1", "f2"]},
    ]
)
SCHEMA = (
    "uid long, income double, `the ``age``.x` int, job string, genres string, tags array<int>, "
    "f1 boolean, f2 decimal(4,1)"
)
NAMES = [
    *("const", "income", "income=<null>"),
    *("the `age`.x=(-inf,18)", "the `age`.x=[18,25.5)", "the `age`.x=[25.5,inf)", "the `age`.x=<null>"),
    *("genres=Comedy", "genres=Drama", "genres=<unknown>", "tags=3", "tags=7", "tags=<unknown>", "f1", "f2"),
    *("job=__unknown", "job=cook", "job=<unknown>"),
]


@pytest.fixture(scope="module")
def people(spark: SparkSession) -> DataFrame:
    rows = [
        (1, 10.0, 17, "cook", "Drama| Comedy |", [7, 3, 7], True, Decimal(1)),
        (2, None, 18, "__unknown", "", [], False, Decimal(2)),
        (3, 40.0, None, None, "Drama", None, False, Decimal(3)),
        (4, 20.0, 30, "cook", None, [3, None], True, Decimal(4)),
    ]
    return spark.createDataFrame(rows, SCHEMA)


@pytest.fixture(scope="module")
def fitted(people: DataFrame) -> FittedFeatures:
    return fit_features(people, "uid", DECLARATIONS)


@pytest.fixture
def vectors(spark: SparkSession) -> Callable[..., DataFrame]:
    schema = StructType([StructField("uid", IntegerType()), StructField("features", VectorUDT())])
    return lambda *rows: spark.createDataFrame(list(enumerate(rows)), schema)


def _encoded(features: FittedFeatures, df: DataFrame) -> dict[Any, list[float]]:
    return {row.id: row.features.toArray().tolist() for row in features.encode(df).collect()}


def _jobs(spark: SparkSession, work: Callable[[], object]) -> int:
    """Spark jobs that `work` starts."""
    context = spark.sparkContext
    context.setJobGroup("features-test", "counted")
    before = len(context.statusTracker().getJobIdsForGroup("features-test"))
    work()
    return len(context.statusTracker().getJobIdsForGroup("features-test")) - before


def test_groups_follow_their_first_declaration_and_leave_ids_out(fitted: FittedFeatures) -> None:
    assert [(group.name, group.width) for group in fitted.groups] == [("const", 1), ("attributes", 14), ("work", 3)]
    assert [name for group in fitted.groups for name in group.columns] == NAMES
    assert fitted.width == 18


def test_every_kind_encodes_to_these_numbers(fitted: FittedFeatures, people: DataFrame) -> None:
    income = [10.0, 20.0, 40.0, 20.0]
    mean, std = statistics.mean(income), statistics.stdev(income)
    z = [(x - mean) / std for x in income]
    expected = {
        1: [1, z[0], 0, 1, 0, 0, 0, 1, 1, 0, 1, 1, 0, 1, 1, 0, 1, 0],
        2: [1, z[1], 1, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 1, 0, 0],
        3: [1, z[2], 0, 0, 0, 0, 1, 0, 1, 0, 0, 0, 0, 0, 3, 0, 0, 1],
        4: [1, z[3], 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 1, 4, 0, 1, 0],
    }
    found = _encoded(fitted, people)
    assert sorted(found) == [1, 2, 3, 4]
    for identifier, row in expected.items():
        np.testing.assert_allclose(found[identifier], row, rtol=1e-15)


def test_unknown_values_get_their_own_slot_and_are_counted_in_one_job(
    spark: SparkSession, fitted: FittedFeatures
) -> None:
    rows = [
        (9, None, None, "pilot", "War|Drama|Noir", [8], False, Decimal(0)),
        (8, 1.0, 5, None, None, None, True, None),
    ]
    df = spark.createDataFrame(rows, SCHEMA)
    hot = {NAMES[place] for place in np.nonzero(_encoded(fitted, df)[9])[0]}
    assert hot == {
        *("const", "income", "income=<null>", "the `age`.x=<null>", "job=<unknown>"),
        *("genres=Drama", "genres=<unknown>", "tags=<unknown>"),
    }
    counts: dict[str, dict[str, int]] = {}
    assert _jobs(spark, lambda: counts.update(fitted.unseen_counts(df))) == 1
    assert counts == {
        "income": {"unknown": 0, "null": 1, "rows": 2},
        "the `age`.x": {"unknown": 0, "null": 1, "rows": 2},
        "job": {"unknown": 1, "null": 1, "rows": 2},
        "genres": {"unknown": 1, "null": 1, "rows": 2},
        "tags": {"unknown": 1, "null": 1, "rows": 2},
        "f1": {"unknown": 0, "null": 0, "rows": 2},
        "f2": {"unknown": 0, "null": 1, "rows": 2},
    }


def test_fitting_is_three_jobs_and_encoding_none(
    spark: SparkSession, fitted: FittedFeatures, people: DataFrame
) -> None:
    assert _jobs(spark, lambda: fit_features(people, "uid", DECLARATIONS)) == 3
    assert _jobs(spark, lambda: fitted.encode(people)) == 0


def test_column_order_and_extra_columns_do_not_matter(fitted: FittedFeatures, people: DataFrame) -> None:
    turned = people.withColumn("features", F.lit("x")).select(
        "features", *[F.col(f"`{n.replace('`', '``')}`") for n in people.columns[::-1]]
    )
    assert _encoded(fitted, turned) == _encoded(fitted, people)


def test_json_restores_the_same_features(fitted: FittedFeatures, people: DataFrame) -> None:
    restored = FittedFeatures.from_json(json.loads(json.dumps(fitted.to_json())))
    assert restored == fitted
    assert _encoded(restored, people) == _encoded(fitted, people)


def test_what_is_fitted_does_not_depend_on_partitions(spark: SparkSession) -> None:
    rows = spark.range(0, 997).select(
        F.col("id").alias("uid"),
        (F.sin("id") * F.exp(F.col("id") % 13)).alias("x"),
        F.concat(F.lit("v"), F.col("id") % 31).alias("c"),
    )
    declarations = parse_declarations([{"kind": "numeric", "column": "x"}, {"kind": "one_hot", "column": "c"}])
    states = {fit_features(rows.repartition(parts, "c"), "uid", declarations) for parts in (1, 3, 8)}
    assert len(states) == 1
    scale = states.pop().states[0]
    values = np.sort([row.x for row in rows.collect()])
    np.testing.assert_allclose(
        [scale.median, scale.mean, scale.std], [values[498], values.mean(), values.std(ddof=1)], rtol=1e-12
    )


@pytest.mark.parametrize(
    ("values", "state"),
    [([5.0, 5.0], (5.0, 5.0, 1.0)), ([None, None], (0.0, 0.0, 1.0)), ([3.0], (3.0, 3.0, 1.0)), ([], (0.0, 0.0, 1.0))],
)
def test_a_numeric_column_without_spread_has_std_1(
    spark: SparkSession, values: list[float | None], state: tuple[float, ...]
) -> None:
    df = spark.createDataFrame(list(enumerate(values)), "uid int, x double")
    scale = fit_features(df, "uid", parse_declarations([{"kind": "numeric", "column": "x"}])).states[0]
    assert (scale.median, scale.mean, scale.std) == state


def test_a_large_shift_does_not_cancel(spark: SparkSession) -> None:
    df = spark.createDataFrame([(k, 1e9 + k) for k in range(5)], "uid int, x double")
    scale = fit_features(df, "uid", parse_declarations([{"kind": "numeric", "column": "x"}])).states[0]
    assert scale.std == pytest.approx(math.sqrt(2.5), rel=1e-15)


def test_columns_of_nulls_only_leave_one_slot(spark: SparkSession) -> None:
    df = spark.createDataFrame([(1, None, None)], "uid int, c string, m array<string>")
    features = fit_features(
        df, "uid", parse_declarations([{"kind": "one_hot", "column": "c"}, {"kind": "multi_hot", "column": "m"}])
    )
    assert features.groups[0].columns == ("c=<unknown>", "m=<unknown>")
    other = spark.createDataFrame([(1, "a", ["b"]), (2, None, [])], "uid int, c string, m array<string>")
    assert _encoded(features, other) == {1: [1, 1], 2: [1, 0]}


@pytest.mark.parametrize("raw", [[], [{"kind": "id"}]])
def test_without_attributes_the_vector_is_empty(people: DataFrame, raw: list[dict[str, Any]]) -> None:
    features = fit_features(people, "uid", parse_declarations(raw))
    assert features.groups == ()
    assert features.unseen_counts(people) == {}
    assert _encoded(features, people) == {1: [], 2: [], 3: [], 4: []}


def test_ready_vectors_keep_their_numbers_and_sparsity(vectors: Callable[..., DataFrame], spark: SparkSession) -> None:
    df = vectors(Vectors.dense([1.0, -2.5, 3.0, 0.25]), Vectors.sparse(4, [1], [0.1]))
    features = fit_features(df, "uid", ready_features_declaration())
    assert features.groups[0].columns == ("features[0]", "features[1]", "features[2]", "features[3]")
    assert _encoded(features, df) == {0: [1.0, -2.5, 3.0, 0.25], 1: [0.0, 0.1, 0.0, 0.0]}
    assert isinstance(features.encode(df).where("id = 1").collect()[0].features, SparseVector)
    arrays = spark.createDataFrame([(0, [1.0, 2.0, 0.5, 0.0])], "uid int, features array<float>")
    assert _encoded(features, arrays) == {0: [1.0, 2.0, 0.5, 0.0]}


def test_vectors_of_other_widths_are_named(vectors: Callable[..., DataFrame], spark: SparkSession) -> None:
    ready = ready_features_declaration()
    mixed = vectors(Vectors.dense([1.0, 2.0]), Vectors.sparse(3, [0], [1.0]), Vectors.dense([3.0, 4.0]), None)
    with pytest.raises(DataError, match=r"2 rows of length 2, 1 rows of length 3, 1 rows null; all rows must have one"):
        fit_features(mixed, "uid", ready)
    features = fit_features(mixed.where("uid in (0, 2)"), "uid", ready)
    with pytest.raises(DataError, match=r"'features' has 1 rows of length 3, 1 rows null; .* fitted on length 2"):
        features.encode(mixed)
    number = spark.createDataFrame([(1, 2.0)], "uid int, features double")
    with pytest.raises(DataError, match=r"'features' is double; the features were fitted on vectors of length 2"):
        features.encode(number)
    with pytest.raises(DataError, match="no row to learn the length"):
        fit_features(mixed.where("false"), "uid", ready)


def test_non_finite_rows_are_found_with_their_reason(spark: SparkSession) -> None:
    inf, nan = math.inf, math.nan
    declarations = parse_declarations(
        [
            {"kind": "numeric", "column": "x"},
            {"kind": "bucketize", "column": "y", "splits": [0]},
            {"kind": "passthrough", "column": "v"},
            {"kind": "passthrough", "column": "n"},
        ]
    )
    rows: list[tuple[Any, ...]] = [
        (0, 1.0, 1.0, [1.0], 1),
        (1, nan, 1.0, [1.0], 1),
        (2, 1.0, -inf, [1.0], 1),
        (3, 1.0, 1.0, [inf], 1),
        (4, 1.0, 1.0, [None], 1),
        (5, 1.0, 1.0, [1.0], None),
        (6, None, None, [1.0], 1),
        (7, 1.0, 1.0, [1.0, 1.0], 1),
        (8, 1.0, 1.0, None, 1),
    ]
    df = spark.createDataFrame(rows, "uid int, x double, y float, v array<double>, n long")
    features = fit_features(df.where("uid = 0"), "uid", declarations)
    faults = [*length_faults(df, declarations, {"v": 1}), *value_faults(df, declarations)]
    reasons = F.array_compact(F.array(*(F.when(condition, F.lit(reason)) for condition, reason in faults)))
    found = df.select("uid", non_finite(df, declarations), reasons).sort("uid").collect()
    assert [row[0] for row in found if row[1]] == [1, 2, 3, 4, 5]
    assert [row[2] for row in found] == [
        [],
        *(["non-finite " + name] for name in "xyvv"),
        ["null n"],
        [],
        ["length of v is not 1"],
        ["null v", "length of v is not 1"],
    ]
    undeclared = parse_declarations([{"kind": "one_hot", "column": "x"}])
    assert not df.where(non_finite(df, undeclared)).count()
    same_width = df.where("uid < 7")
    assert np.isnan(list(_encoded(features, same_width).values())).any(axis=1).tolist() == [
        False, True, False, False, True, True, False,
    ]  # fmt: skip
    with pytest.raises(DataError, match=r"'x' is not finite: it spans 1.0 to nan"):
        fit_features(df.where("uid < 2"), "uid", declarations)


def test_every_unusable_entry_of_an_array_is_found_whatever_is_beside_it(spark: SparkSession) -> None:
    inf, nan = math.inf, math.nan
    declarations = parse_declarations([{"kind": "passthrough", "column": "v"}])
    usable: list[list[float | None] | None] = [[1.0, -2.0], [], None]
    unusable = [list(own) for n in (1, 2, 3) for own in permutations([1.0, None, inf, -inf, nan], n) if {*own} != {1.0}]
    df = spark.createDataFrame([(n, v) for n, v in enumerate([*usable, *unusable])], "uid int, v array<double>")
    for kind in ("array<double>", "array<float>"):
        found = df.withColumn("v", F.col("v").cast(kind)).where(non_finite(df, declarations)).sort("uid")
        assert [row.uid for row in found.collect()] == list(range(len(usable), len(usable) + len(unusable)))
    whole = spark.createDataFrame([(0, [1, 2]), (1, [1, None]), (2, None)], "uid int, v array<int>")
    assert [row.uid for row in whole.where(non_finite(whole, declarations)).collect()] == [1]
    features = fit_features(df.where("uid = 0"), "uid", declarations)
    encoded = _encoded(features, df.where("array_size(v) = 2"))
    assert [uid for uid, vector in encoded.items() if np.isfinite(vector).all()] == [0]


@pytest.mark.parametrize(
    ("declaration", "message"),
    [
        (
            {"kind": "numeric", "column": "job"},
            "column 'job' is string; a feature of kind numeric needs a number or a boolean",
        ),
        (
            {"kind": "bucketize", "column": "tags", "splits": [1]},
            "column 'tags' is array<int>; a feature of kind bucketize",
        ),
        ({"kind": "one_hot", "column": "tags"}, "kind one_hot needs text, a number, a boolean, a date or a time"),
        (
            {"kind": "multi_hot", "column": "job"},
            "kind multi_hot needs an array of text or numbers, or text with a separator",
        ),
        (
            {"kind": "multi_hot", "column": "tags", "separator": "|"},
            "kind multi_hot needs text, or an array with no separator",
        ),
        ({"kind": "passthrough", "column": "job"}, "kind passthrough needs a vector, an array of numbers or a number"),
        (
            {"kind": "passthrough", "columns": ["f1", "tags"]},
            "column 'tags' is array<int>; a feature of kind passthrough needs a number",
        ),
        (
            {"kind": "one_hot", "column": "jobs"},
            "missing columns ['jobs'] in the attribute table; present: ['uid', 'income',",
        ),
    ],
)
def test_missing_columns_and_wrong_types_are_named(
    people: DataFrame, declaration: dict[str, Any], message: str
) -> None:
    declarations: tuple[Declaration, ...] = parse_declarations([declaration])
    with pytest.raises(DataError) as caught:
        fit_features(people, "uid", declarations)
    assert message in str(caught.value)


def test_a_cross_is_the_one_hot_of_its_columns_values_together(spark: SparkSession) -> None:
    schema = "uid int, job string, age double"
    declared = parse_declarations([{"kind": "cross", "columns": ["job", "age"], "splits": {"age": [18, 30]}}])
    rows = [(1, "cook", 18.0), (2, "cook", 99.0), (3, 'pi"lot', 17.9), (4, None, 20.0), (5, "cook", None)]
    features = fit_features(spark.createDataFrame(rows, schema), "uid", declared)
    assert list(features.groups[0].columns) == [
        'job×age=["cook","[18,30)"]',
        'job×age=["cook","[30,inf)"]',
        'job×age=["pi\\"lot","(-inf,18)"]',
        "job×age=<unknown>",
    ]
    given = spark.createDataFrame([*rows, (6, "cook", 3.0), (7, "cook", math.nan), (8, "cook", math.inf)], schema)
    found = {uid: row.index(1.0) for uid, row in _encoded(features, given).items()}
    assert found == {1: 0, 2: 1, 3: 2, 4: 3, 5: 3, 6: 3, 7: 3, 8: 1}
    assert features.unseen_counts(given)["job"] == {"unknown": 1, "null": 1, "rows": 8}
    assert FittedFeatures.from_json(json.loads(json.dumps(features.to_json()))) == features
    text = spark.createDataFrame([(1, "cook", "young")], "uid int, job string, age string")
    with pytest.raises(DataError, match="needs a number or a boolean where it has splits"):
        fit_features(text, "uid", declared)


def test_an_unknown_value_beside_a_column_of_more_labels(spark: SparkSession) -> None:
    declared = parse_declarations([{"kind": "one_hot", "column": "few"}, {"kind": "one_hot", "column": "many"}])
    rows = [(place, "x", f"label {place}") for place in range(5)]
    features = fit_features(spark.createDataFrame(rows, "uid int, few string, many string"), "uid", declared)
    given = spark.createDataFrame([(9, "y", "label 3"), (10, None, "new")], "uid int, few string, many string")
    found = {uid: np.flatnonzero(row).tolist() for uid, row in _encoded(features, given).items()}
    assert found == {9: [1, 5], 10: [1, 7]}
    assert features.unseen_counts(given) == {
        "few": {"unknown": 1, "null": 1, "rows": 2},
        "many": {"unknown": 1, "null": 0, "rows": 2},
    }
