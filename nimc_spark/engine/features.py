"""Declared features, fitted on the training entities and applied to raw attributes: one vector an entity.

    numeric     (x − mean)/std with null as the median, and 1 where null
    bucketize   one-hot of the interval, or of null
    one_hot     one-hot of the value, or of <unknown> (a value not seen in fitting, or null)
    cross       the same of the combination of several columns' values
    multi_hot   1 for each token, and 1 in <unknown> for any token not seen in fitting
    passthrough the numbers themselves;  const  1

What is fitted is plain numbers and text, saved as JSON. Spark ML's transformers are made from it when it is applied, so
that the same code serves training and prediction. The result does not depend on the partitions of the table.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pyspark.ml.feature import Bucketizer, CountVectorizerModel, OneHotEncoder, StringIndexerModel, VectorAssembler
from pyspark.ml.functions import array_to_vector
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import ArrayType

from nimc_spark.data.declarations import (
    Bucketize,
    Const,
    Cross,
    Declaration,
    Id,
    MultiHot,
    Numeric,
    OneHot,
    Passthrough,
    parse_declarations,
)
from nimc_spark.engine.feature_checks import check_columns, vector_columns, width_counts
from nimc_spark.engine.feature_states import (
    Labels,
    Scale,
    State,
    Width,
    category,
    fit_states,
    intervals,
    lengths,
    restore_state,
    tokens,
)
from nimc_spark.engine.index import quoted
from nimc_spark.errors import DataError

UNKNOWN = "<unknown>"
NULL = "<null>"


@dataclass(frozen=True)
class GroupSpec:
    """A named run of feature columns, each with a name for people, such as `genre=Drama`."""

    name: str
    columns: tuple[str, ...]

    @property
    def width(self) -> int:
        return len(self.columns)


@dataclass(frozen=True)
class FittedFeatures:
    """The declarations of one side and what each was fitted to, position by position."""

    id_col: str
    declarations: tuple[Declaration, ...]
    states: tuple[State, ...]

    @property
    def groups(self) -> tuple[GroupSpec, ...]:
        """The groups in the order of the vector. One-hot ids are none of them: the engine appends those."""
        columns: dict[str, tuple[str, ...]] = {}
        for position in self._order:
            declaration = self.declarations[position]
            columns[declaration.group] = columns.get(declaration.group, ()) + self._names(position)
        return tuple(GroupSpec(name, names) for name, names in columns.items())

    @property
    def constants(self) -> tuple[int, ...]:
        """Places in the vector that are 1 for all."""
        made = [self.declarations[position] for position in self._order for _ in self._names(position)]
        return tuple(place for place, declaration in enumerate(made) if isinstance(declaration, Const))

    @property
    def width(self) -> int:
        """Length of the vector."""
        return sum(group.width for group in self.groups)

    def encode(self, df: DataFrame) -> DataFrame:
        """DataFrame(id, features vector of `width`), a row for each of `df`; sparse where that is smaller.

        Columns are matched by name, others ignored. Lazy, but for one Spark job if a vector or array passes through.
        Non-finite numbers stay what they are: leave out rows with `value_faults` first. Raises DataError for a missing
        column, a wrong type, and vectors that are null or of another length than fitted.
        """
        check_columns(df, self.id_col, self.declarations)
        self._check_widths(df)
        coded = self._coded(df)
        hot = self._indexed
        if hot:
            encoder = OneHotEncoder(
                inputCols=[f"{position}_index" for position in hot],
                outputCols=[f"{position}_0" for position in hot],
                dropLast=False,
            )
            coded = encoder.fit(coded).transform(coded)
        inputs = [name for position in self._order for name in self._inputs(position)]
        # "keep" lets NaN and null through, as promised, and never runs a job to learn a width.
        vectors = VectorAssembler(inputCols=inputs, outputCol="features", handleInvalid="keep").transform(coded)
        return vectors.select("id", F.col("features").alias("features", metadata=_vector_metadata(self.width)))

    def unseen_counts(self, df: DataFrame) -> dict[str, dict[str, int]]:
        """Rows of `df` by feature column: {"unknown": with a value not seen in fitting, "null": …, "rows": all}.

        One Spark job for all columns; none if nothing is declared but constants and ids.
        """
        check_columns(df, self.id_col, self.declarations)
        names = self._sources
        if not names:
            return {}
        counts = [F.count(F.lit(1)), *(F.count_if(F.col(f"null_{place}")) for place in range(len(names)))]
        unknown = dict(self._unknown())
        counts += [F.count_if(condition) for condition in unknown.values()]
        rows, *found = self._coded(df).select(*counts).collect()[0]
        result = {name: {"unknown": 0, "null": nulls, "rows": rows} for name, nulls in zip(names, found, strict=False)}
        for position, count in zip(unknown, found[len(names) :], strict=True):
            entry = result[self.declarations[position].sources[0]]
            entry["unknown"] = max(entry["unknown"], count)
        return result

    def to_json(self) -> dict[str, Any]:
        """What `from_json` reads: text, numbers, lists and dicts."""
        return {
            "id_col": self.id_col,
            "declarations": [declaration.model_dump(mode="json") for declaration in self.declarations],
            "states": [dataclasses.asdict(state) for state in self.states],
        }

    @staticmethod
    def from_json(raw: Mapping[str, Any]) -> FittedFeatures:
        declarations = parse_declarations(raw["declarations"])
        states = tuple(restore_state(entry, saved) for entry, saved in zip(declarations, raw["states"], strict=True))
        return FittedFeatures(raw["id_col"], declarations, states)

    @property
    def _order(self) -> list[int]:
        """Positions of the declarations that make columns, group by group, groups as first declared."""
        groups = list(dict.fromkeys(declaration.group for declaration in self.declarations))
        made = [place for place, declaration in enumerate(self.declarations) if not isinstance(declaration, Id)]
        return sorted(made, key=lambda place: groups.index(self.declarations[place].group))

    @property
    def _sources(self) -> list[str]:
        return list(dict.fromkeys(name for declaration in self.declarations for name in declaration.sources))

    @property
    def _indexed(self) -> list[int]:
        return self._of_kind(OneHot, Cross, Bucketize)

    def _of_kind(self, *kinds: type) -> list[int]:
        return [place for place, declaration in enumerate(self.declarations) if isinstance(declaration, kinds)]

    @property
    def _widths(self) -> dict[str, int]:
        return {
            declaration.sources[0]: state.width
            for declaration, state in zip(self.declarations, self.states, strict=True)
            if isinstance(state, Width) and state.width is not None
        }

    def _labels(self, position: int) -> tuple[str, ...]:
        state = self.states[position]
        return state.labels if isinstance(state, Labels) else ()

    def _names(self, position: int) -> tuple[str, ...]:
        """Names for people of the columns that the declaration at `position` makes."""
        state = self.states[position]
        match self.declarations[position]:
            case Numeric(column=name):
                return (name, f"{name}={NULL}")
            case Bucketize(column=name, splits=splits):
                return tuple(f"{name}={interval}" for interval in (*intervals(splits), NULL))
            case OneHot(column=name) | MultiHot(column=name):
                return tuple(f"{name}={label}" for label in (*self._labels(position), UNKNOWN))
            case Cross(columns=names):
                return tuple(f"{'×'.join(names)}={label}" for label in (*self._labels(position), UNKNOWN))
            case Passthrough(column=str(name)) if isinstance(state, Width) and state.width is not None:
                return tuple(f"{name}[{place}]" for place in range(state.width))
            case Passthrough() as numbers:
                return numbers.sources
            case _:
                return ("const",)

    def _inputs(self, position: int) -> list[str]:
        """Columns that go into the vector, of `_coded` or of the one-hot encoder."""
        match self.declarations[position]:
            case Numeric():
                count = 2
            case MultiHot():
                count = 1 + bool(self._labels(position))
            case Passthrough() as numbers:
                count = len(numbers.sources)
            case _:
                count = 1
        return [f"{position}_{place}" for place in range(count)]

    def _check_widths(self, df: DataFrame) -> None:
        expected = self._widths
        for name in sorted(set(vector_columns(df, self.declarations)) ^ set(expected)):
            found = df.schema[name].dataType.simpleString()
            wanted = f"vectors of length {expected[name]}" if name in expected else "a number"
            raise DataError(f"column {name!r} is {found}; the features were fitted on {wanted}")
        for name, counts in width_counts(df, self.declarations).items():
            wrong = {width: count for width, count in counts.items() if width != expected[name]}
            if wrong:
                raise DataError(
                    f"column {name!r} has {lengths(wrong)}; the features were fitted on length {expected[name]}"
                )

    def _coded(self, df: DataFrame) -> DataFrame:
        """`id`, `null_<source>`, and for the declaration at position p: `p_index` to be one-hot encoded, or `p_0`, …"""
        nulls = [quoted(name).isNull().alias(f"null_{place}") for place, name in enumerate(self._sources)]
        raw = df.select(quoted(self.id_col).alias("id"), *nulls, *self._raw(df))
        indexed = self._count_tokens(self._cut(self._index(raw)))
        codes = [
            self._slot(place).alias(f"{place}_index", metadata=_nominal_metadata(len(self._names(place))))
            for place in self._indexed
        ]
        return indexed.select("*", *codes)

    def _slot(self, place: int) -> Column:
        """The slot of a value. Of several columns, Spark's indexer gives a value that it does not know the number of
        labels of the column that has most."""
        return F.least(F.col(f"{place}_code"), F.lit(float(len(self._names(place)) - 1)))

    def _raw(self, df: DataFrame) -> Iterator[Column]:
        """What the transformers read, and what needs none."""
        for position, (declaration, state) in enumerate(zip(self.declarations, self.states, strict=True)):
            match declaration, state:
                case Numeric(column=name), Scale(median, mean, std):
                    filled = F.coalesce(quoted(name).cast("double"), F.lit(median))
                    yield ((filled - F.lit(mean)) / F.lit(std)).alias(f"{position}_0")
                    yield quoted(name).isNull().cast("double").alias(f"{position}_1")
                case Bucketize(column=name), _:
                    # Bucketizer has a bucket for NaN, and none for null.
                    yield F.coalesce(quoted(name).cast("double"), F.lit(math.nan)).alias(f"{position}_raw")
                case OneHot() | Cross(), _:
                    yield category(declaration).alias(f"{position}_raw")
                case MultiHot(), _:
                    yield F.array_distinct(tokens(declaration)).alias(f"{position}_raw")
                case Passthrough(), Width(width):
                    for place, name in enumerate(declaration.sources):
                        yield _passed(df, name, width).alias(f"{position}_{place}", metadata=_vector_metadata(width))
                case Const(), _:
                    yield F.lit(1.0).alias(f"{position}_0")

    def _index(self, raw: DataFrame) -> DataFrame:
        places = self._of_kind(OneHot, Cross)
        if not places:
            return raw
        model = StringIndexerModel.from_arrays_of_labels(
            [list(self._labels(place)) for place in places],
            inputCols=[f"{place}_raw" for place in places],
            outputCols=[f"{place}_code" for place in places],
            handleInvalid="keep",
        )
        return model.transform(raw)

    def _cut(self, raw: DataFrame) -> DataFrame:
        splits = {p: d.splits for p, d in enumerate(self.declarations) if isinstance(d, Bucketize)}
        if not splits:
            return raw
        bucketizer = Bucketizer(
            splitsArray=[[-math.inf, *inner, math.inf] for inner in splits.values()],
            inputCols=[f"{place}_raw" for place in splits],
            outputCols=[f"{place}_code" for place in splits],
            handleInvalid="keep",
        )
        return bucketizer.transform(raw)

    def _count_tokens(self, raw: DataFrame) -> DataFrame:
        """Multi-hot columns: `p_0` of the known tokens, where any is known, and then 1 for a token that is not."""
        for place in self._of_kind(MultiHot):
            present, known = F.array_size(F.col(f"{place}_raw")), F.lit(0)
            if self._labels(place):
                model = CountVectorizerModel.from_vocabulary(
                    list(self._labels(place)), inputCol=f"{place}_raw", outputCol=f"{place}_0", binary=True
                )
                raw = model.transform(raw)
                known = F.array_size(F.unwrap_udt(F.col(f"{place}_0"))["indices"])
            raw = raw.withColumn(self._inputs(place)[-1], (present > known).cast("double"))
        return raw

    def _unknown(self) -> Iterator[tuple[int, Column]]:
        """Position and condition on `_coded` of the declarations that can meet an unknown value."""
        for place in self._of_kind(OneHot, Cross):
            unseen = self._slot(place) == F.lit(float(len(self._labels(place))))
            yield place, F.col(f"{place}_raw").isNotNull() & unseen
        for place in self._of_kind(MultiHot):
            yield place, F.col(self._inputs(place)[-1]) > F.lit(0.0)


def fit_features(df: DataFrame, id_col: str, declarations: Sequence[Declaration]) -> FittedFeatures:
    """Fit on the rows of `df`, one an entity, those with `value_faults` left out; at most four Spark jobs.

    Raises DataError for a missing column, a wrong type, a non-finite numeric column, and a passthrough whose vectors
    have no common length.
    """
    check_columns(df, id_col, declarations)
    return FittedFeatures(id_col, tuple(declarations), fit_states(df, declarations))


def _passed(df: DataFrame, name: str, width: int | None) -> Column:
    """A passthrough column as a vector, or as double."""
    column = quoted(name)
    if width is None:
        return column.cast("double")
    if not isinstance(df.schema[name].dataType, ArrayType):
        return column
    # A vector has no null entries. A lambda for each number is slow: only where there may be a null, that is where
    # Spark finds a NaN, or does not know if there is one.
    numbers = column.cast("array<double>")
    marked = F.transform(numbers, lambda x: F.coalesce(x, F.lit(math.nan)))
    return array_to_vector(F.when(F.array_contains(numbers, math.nan) == F.lit(False), numbers).otherwise(marked))


def _nominal_metadata(values: int) -> dict[str, Any]:
    """Tells OneHotEncoder the number of slots, which it would otherwise take from the rows at hand."""
    return {"ml_attr": {"type": "nominal", "num_vals": values}}


def _vector_metadata(width: int | None) -> dict[str, Any]:
    """Tells VectorAssembler a vector's length, which it would otherwise take from the first row."""
    return {} if width is None else {"ml_attr": {"num_attrs": width}}
