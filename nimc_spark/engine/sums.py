"""Floating sums whose bits do not depend on how the rows are partitioned.

    Σ x  =  s (Σ h / 2²⁹ + Σ l / 2⁵⁹)        h = rint(2²⁹ x/s),  l = rint(2³⁰ (2²⁹ x/s − h)),  s a power of two

The h and l of a row are whole numbers, and sums of whole numbers have one value in whatever order they are taken.
"""

from __future__ import annotations

import math

from pyspark.sql import Column
from pyspark.sql import functions as F

_HIGH = 2.0**29
_LOW = 2.0**30


def exact_sum(column: Column, scale: float) -> Column:
    """The aggregate Σ `column` as double, null without any row; nulls are left out.

    `column` is finite with |column| ≤ `scale`; a scale of 0 means that all values are 0. Each value is rounded to
    about 2⁻⁶⁰ `scale`, and values with few binary digits, such as ratings in half stars, are not rounded at all.
    Good for 2³⁴ rows a group, at a tenth of the cost of decimals.
    """
    unit = 2.0 ** math.frexp(scale)[1] if scale else 1.0
    high = column.cast("double") / F.lit(unit) * F.lit(_HIGH)
    whole = F.rint(high)
    rest = F.rint((high - whole) * F.lit(_LOW))
    total = _whole_sum(whole) / F.lit(_HIGH) + _whole_sum(rest) / F.lit(_HIGH * _LOW)
    return total * F.lit(unit)


def _whole_sum(numbers: Column) -> Column:
    return F.sum(numbers.cast("long")).cast("double")
