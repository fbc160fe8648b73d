"""What a feature learns from the training entities, and how: plain numbers and text, which a model saves as JSON.

Labels are sorted, medians exact, and sums exact (`sums.py`), so that no state depends on the partitions of the table.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from nimc_spark.data.declarations import Cross, Declaration, MultiHot, Numeric, OneHot, Passthrough
from nimc_spark.engine.feature_checks import width_counts
from nimc_spark.engine.index import quoted
from nimc_spark.engine.sums import exact_sum
from nimc_spark.errors import DataError


@dataclass(frozen=True)
class Scale:
    """What a numeric column was fitted to; std is of n − 1, and 1 where the column is constant."""

    median: float
    mean: float
    std: float


@dataclass(frozen=True)
class Labels:
    """Values or tokens seen in fitting, sorted."""

    labels: tuple[str, ...]


@dataclass(frozen=True)
class Width:
    """Length of a passthrough vector; None for plain numbers."""

    width: int | None


@dataclass(frozen=True)
class Nothing:
    """The state of a kind that learns nothing."""


State = Scale | Labels | Width | Nothing

_STATES: dict[type, type[State]] = {Numeric: Scale, OneHot: Labels, MultiHot: Labels, Cross: Labels, Passthrough: Width}


def fit_states(df: DataFrame, declarations: Sequence[Declaration]) -> tuple[State, ...]:
    """The state of each declaration, from the rows of `df` with checked columns; at most four Spark jobs."""
    labels = _fit_labels(df, declarations)
    scales = _fit_scales(df, [declared.column for declared in declarations if isinstance(declared, Numeric)])
    widths = _fit_widths(df, declarations)
    states: list[State] = []
    for position, declaration in enumerate(declarations):
        match declaration:
            case Numeric(column=name):
                states.append(scales[name])
            case OneHot() | MultiHot() | Cross():
                states.append(Labels(labels[position]))
            case Passthrough() as numbers:
                states.append(Width(widths.get(numbers.sources[0])))
            case _:
                states.append(Nothing())
    return tuple(states)


def restore_state(declaration: Declaration, saved: Mapping[str, Any]) -> State:
    """The state that `dataclasses.asdict` made `saved` of."""
    fields: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in saved.items()}
    return _STATES.get(type(declaration), Nothing)(**fields)


def tokens(declaration: OneHot | MultiHot | Cross) -> Column:
    """array<string> of the values of a row, none for null."""
    match declaration:
        case OneHot() | Cross():
            found = F.array_compact(F.array(category(declaration)))
        case MultiHot(column=name, separator=None):
            found = F.array_compact(quoted(name).cast("array<string>"))
        case MultiHot(column=name, separator=str(separator)):
            parts = F.transform(F.split(quoted(name), re.escape(separator)), lambda token: F.trim(token))
            found = F.filter(parts, lambda token: token != F.lit(""))
    return F.coalesce(found, F.array().cast("array<string>"))


def category(declaration: OneHot | Cross) -> Column:
    """The value of a row as text, null if it is null; of a cross the JSON list of its columns' values."""
    if isinstance(declaration, OneHot):
        return quoted(declaration.column).cast("string")
    splits = declaration.splits
    parts = [_interval(n, splits[n]) if n in splits else quoted(n).cast("string") for n in declaration.columns]
    known = reduce(Column.__and__, (part.isNotNull() for part in parts))
    return F.when(known, F.to_json(F.array(*parts)))


def intervals(splits: Sequence[float]) -> list[str]:
    """Names of (-inf, s₀), [s₀, s₁), …, [s_last, inf)."""
    edges = [int(split) if split == int(split) else split for split in splits]
    inner = [f"[{a},{b})" for a, b in itertools.pairwise(edges)]
    return [f"(-inf,{edges[0]})", *inner, f"[{edges[-1]},inf)"]


def _interval(name: str, splits: Sequence[float]) -> Column:
    """The name of a number's interval; null for null and NaN."""
    number, names = quoted(name).cast("double"), intervals(splits)
    below = F.lit(None).cast("string")
    # Spark orders NaN above every number, so it is below no split.
    for edge, label in reversed(list(zip((*splits, math.inf), names, strict=True))):
        below = F.when(number < F.lit(edge), label).otherwise(below)
    return F.coalesce(below, F.when(number == F.lit(math.inf), names[-1]))


def _fit_labels(df: DataFrame, declarations: Sequence[Declaration]) -> dict[int, tuple[str, ...]]:
    """Sorted distinct values or tokens by position of the declaration, in one job."""
    declared = {p: d for p, d in enumerate(declarations) if isinstance(d, OneHot | MultiHot | Cross)}
    if not declared:
        return {}
    tagged = F.concat(*[_tagged(position, tokens(declaration)) for position, declaration in declared.items()])
    rows = df.select(F.explode(tagged).alias("row")).select("row.position", "row.token").distinct().collect()
    found: dict[int, list[str]] = {position: [] for position in declared}
    for position, token in rows:
        found[position].append(token)
    return {position: tuple(sorted(values)) for position, values in found.items()}


def _tagged(position: int, values: Column) -> Column:
    return F.transform(values, lambda token: F.struct(F.lit(position).alias("position"), token.alias("token")))


def _fit_scales(df: DataFrame, names: Sequence[str]) -> dict[str, Scale]:
    """Median, mean and std of each column after nulls became the median, in two jobs.

    With z = (x − median)/s, s = max |x − median|, both moments come from one pass over Σz and Σz², to which nulls add
    nothing; as the mean is within one std of the median, their difference does not cancel.
    """
    if not names:
        return {}
    numbers = [quoted(name).cast("double") for name in names]
    found = df.select(F.count(F.lit(1)), *[f(x) for x in numbers for f in (F.min, F.median, F.max)]).collect()[0]
    centres, spreads = [], []
    for place, name in enumerate(names):
        low, median, high = (value or 0.0 for value in found[1 + 3 * place : 4 + 3 * place])
        spread = max(high - median, median - low)
        if not (math.isfinite(low) and math.isfinite(high) and math.isfinite(spread)):
            raise DataError(f"numeric column {name!r} is not finite: it spans {low} to {high}; leave such rows out")
        centres.append(median)
        spreads.append(spread or 1.0)
    shifted = [(x - F.lit(m)) / F.lit(s) for x, m, s in zip(numbers, centres, spreads, strict=True)]
    sums = df.select(*[exact_sum(power, 1.0) for z in shifted for power in (z, z * z)]).collect()[0]
    return {
        name: _scale(centres[k], spreads[k], sums[2 * k] or 0.0, sums[2 * k + 1] or 0.0, found[0])
        for k, name in enumerate(names)
    }


def _scale(median: float, spread: float, first: float, second: float, rows: int) -> Scale:
    """Scale from Σz, Σz² and n; see `_fit_scales`."""
    mean = first / max(rows, 1)
    variance = max(second - first * mean, 0.0) / max(rows - 1, 1)
    return Scale(median, median + spread * mean, spread * math.sqrt(variance) or 1.0)


def _fit_widths(df: DataFrame, declarations: Sequence[Declaration]) -> dict[str, int]:
    """Length of each passthrough vector or array column, on which all rows must agree."""
    widths: dict[str, int] = {}
    for name, counts in width_counts(df, declarations).items():
        if not counts:
            raise DataError(f"column {name!r} has no row to learn the length of its vectors from")
        width, *others = counts
        if width is None or others:
            raise DataError(f"column {name!r} has {lengths(counts)}; all rows must have one length")
        widths[name] = width
    return widths


def lengths(counts: Mapping[int | None, int]) -> str:
    """For messages: the lengths found, most frequent first."""
    ordered = sorted(counts.items(), key=lambda entry: (-entry[1], entry[0] is None, entry[0]))[:5]
    return ", ".join(f"{count} rows {'null' if width is None else f'of length {width}'}" for width, count in ordered)
