from __future__ import annotations

from typing import Any

import pytest

from nimc_spark.data.declarations import (
    Bucketize,
    Const,
    Id,
    MultiHot,
    Numeric,
    OneHot,
    Passthrough,
    RatingSvd,
    parse_declarations,
    ready_features_declaration,
)
from nimc_spark.errors import UsageError


def test_each_kind_is_parsed_with_its_defaults() -> None:
    raw = [
        {"kind": "numeric", "column": "age"},
        {"kind": "bucketize", "column": "age", "splits": [18, 25.5]},
        {"kind": "one_hot", "column": "gender", "group": "person"},
        {"kind": "multi_hot", "column": "genres", "separator": "|"},
        {"kind": "multi_hot", "column": "tags"},
        {"kind": "passthrough", "column": "embedding"},
        {"kind": "passthrough", "columns": ["a", "b"]},
        {"kind": "const"},
        {"kind": "id"},
        {"kind": "rating_svd", "rank": 20},
    ]
    assert parse_declarations(raw) == (
        Numeric(column="age", group="attributes"),
        Bucketize(column="age", splits=(18.0, 25.5)),
        OneHot(column="gender", group="person"),
        MultiHot(column="genres", separator="|"),
        MultiHot(column="tags", separator=None),
        Passthrough(column="embedding"),
        Passthrough(columns=("a", "b")),
        Const(group="const"),
        Id(group="id"),
        RatingSvd(rank=20, group="rating_svd"),
    )


def test_declarations_pass_through_and_survive_json() -> None:
    declarations = parse_declarations([{"kind": "bucketize", "column": "a", "splits": [0.1]}, Id()])
    assert parse_declarations(declarations) == declarations
    assert parse_declarations([declared.model_dump(mode="json") for declared in declarations]) == declarations


def test_sources_are_the_columns_read() -> None:
    declarations = parse_declarations(
        [{"kind": "passthrough", "columns": ["b", "a"]}, {"kind": "one_hot", "column": "c"}, {"kind": "const"}]
    )
    assert [declared.sources for declared in declarations] == [("b", "a"), ("c",), ()]


def test_a_ready_column_is_one_passthrough() -> None:
    assert ready_features_declaration() == (Passthrough(column="features"),)
    assert ready_features_declaration("v") == (Passthrough(column="v"),)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (
            [{"kind": "one_hott", "column": "a"}],
            "feature 0: unknown kind 'one_hott' (did you mean 'one_hot'?); allowed: numeric,",
        ),
        ([{"column": "a"}], "feature 0: no kind; allowed: numeric, bucketize, one_hot"),
        ([{"kind": ["id"]}], "feature 0: unknown kind ['id']"),
        (["gender"], "feature 0: 'gender' is not a mapping"),
        (
            [{"kind": "const"}, {"kind": "multi_hot", "column": "a", "seperator": "|"}],
            "feature 1 (multi_hot): unknown key 'seperator' (did you mean 'separator'?); allowed: column, group,",
        ),
        ([{"kind": "numeric"}], "feature 0 (numeric): the key 'column' is missing"),
        ([{"kind": "one_hot", "column": 3}], "feature 0 (one_hot): column = 3: Input should be a valid string"),
        (
            [{"kind": "bucketize", "column": "a", "splits": [2, 1]}],
            "splits = [2, 1]: splits must be one or more finite",
        ),
        ([{"kind": "bucketize", "column": "a", "splits": [1, 1]}], "strictly increasing"),
        ([{"kind": "bucketize", "column": "a", "splits": []}], "one or more finite numbers"),
        ([{"kind": "bucketize", "column": "a", "splits": [1, float("inf")]}], "finite"),
        ([{"kind": "bucketize", "column": "a", "splits": [1, "x"]}], "splits.1 = 'x': Input should be a valid number"),
        ([{"kind": "passthrough"}], "feature 0 (passthrough): give either column or a list of columns"),
        ([{"kind": "passthrough", "column": "a", "columns": ["b"]}], "give either column or a list of columns"),
        ([{"kind": "passthrough", "columns": ["b", "b"]}], "columns must be distinct"),
        ([{"kind": "cross", "columns": ["a"]}], "feature 0 (cross): columns = ['a']: Tuple should have at least 2"),
        ([{"kind": "cross", "columns": ["a", "a"]}], "columns must be distinct"),
        ([{"kind": "cross", "columns": ["a", "b"], "splits": {"c": [1]}}], "splits of c, which the columns do not"),
        ([{"kind": "cross", "columns": ["a", "b"], "splits": {"a": [2, 1]}}], "strictly increasing"),
        ([{"kind": "history"}, {"kind": "history"}], "a second {kind: history, weights: equal}"),
        ([{"kind": "history", "weights": "all"}], "weights = 'all': Input should be 'equal' or 'residuals'"),
        ([{"kind": "id"}, {"kind": "id"}], "feature 1: a second {kind: id}; it is allowed once"),
        ([{"kind": "const"}, {"kind": "id"}, {"kind": "const"}], "feature 2: a second {kind: const}"),
        ([{"kind": "rating_svd", "rank": 2}] * 2, "feature 1: a second {kind: rating_svd}; it is allowed once"),
        (
            [{"kind": "rating_svd", "rank": 0}],
            "feature 0 (rating_svd): rank = 0: Input should be greater than or equal to 1",
        ),
        ([{"kind": "rating_svd"}], "feature 0 (rating_svd): the key 'rank' is missing"),
        ([{"kind": "const", "group": "id"}], "feature 0: the group 'id' is kept for {kind: id}"),
        ([{"kind": "id", "group": "ids"}], "feature 0 (id): group = 'ids': Input should be 'id'"),
    ],
)
def test_what_is_wrong_is_named(raw: list[Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_declarations(raw)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
