"""Several models as one: each speaks for the cells of known and new users and items that the router gives it.

    score(i, j) = score_m(i, j),    m = router[i known, j known]

Their factor rows stand side by side, so that whatever multiplies rows stays as it is. For each flag u of users and each
member m of router[u, ·] there is one block of columns,

    P̂_i in block (u, m): P̂_i of m if i's flag is u, else 0
    Q̂_j in block (u, m): Q̂_j of m if router[u, j's flag] is m, else 0

In one block neither row of a pair is 0, and zeros change no bit of a sum that begins at 0. An id is known if it has a
rating in the context, the ratings that are known when scoring.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from nimc_spark.engine.evaluation import cell_name
from nimc_spark.engine.pairs import BASELINE, MODEL
from nimc_spark.engine.topk import top_k
from nimc_spark.errors import UsageError
from nimc_spark.kernels.model import SideName

# The name of the member of a model that has but one.
MAIN = "main"
FLAGS = (True, False)
CELLS = tuple(cell_name(user, item) for user in FLAGS for item in FLAGS)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class Router:
    """Which member speaks for each cell."""

    member_of: Mapping[str, str]

    @staticmethod
    def checked(member_of: Mapping[str, str], members: Collection[str]) -> Router:
        """The router of these members. Raises UsageError unless each cell has a member, and each member a cell."""
        if len(members) < 2:
            raise UsageError(f"members: found {', '.join(members) or 'none'}; give two or more, each with a name")
        for name in members:
            if not _NAME.fullmatch(name):
                raise UsageError(f"members: the name {name!r} is not allowed; allowed: letters, digits, . _ -")
        for cell in (*CELLS, *member_of):
            if cell not in CELLS:
                raise UsageError(f"router: unknown cell {cell!r}; allowed: {', '.join(CELLS)}")
            if cell not in member_of:
                raise UsageError(f"router.{cell}: missing; give one of the members: {', '.join(members)}")
            if member_of[cell] not in members:
                raise UsageError(f"router.{cell} = {member_of[cell]!r}: no such member; allowed: {', '.join(members)}")
        silent = [name for name in members if name not in member_of.values()]
        if silent:
            raise UsageError(f"router: no cell names the member {silent[0]}: name it for one, or leave it out")
        return Router({cell: member_of[cell] for cell in CELLS})

    @property
    def members(self) -> tuple[str, ...]:
        """In the order of the cells."""
        return tuple(dict.fromkeys(self.member_of.values()))

    def speaker(self, user_known: bool, item_known: bool) -> str:
        return self.member_of[cell_name(user_known, item_known)]

    @cached_property
    def blocks(self) -> tuple[tuple[bool, str], ...]:
        """(flag of users, member) of each block of columns."""
        return tuple(dict.fromkeys((user, self.speaker(user, item)) for user in FLAGS for item in FLAGS))

    def fills(self, side: SideName, known: bool, block: tuple[bool, str]) -> bool:
        """Whether rows of ids of a side with this flag are other than 0 in a block."""
        user, member = block
        return user == known if side is SideName.USERS else self.speaker(user, known) == member


def kind_of_cells(cells: Collection[str]) -> str:
    """The kind of split whose held-out rows are of these cells: random where known users meet known items."""
    if cell_name(True, True) in cells:
        return "random"
    new_users, new_items = ({cell_name(False, flag) for flag in FLAGS}, {cell_name(flag, False) for flag in FLAGS})
    return "user" if new_users.issuperset(cells) else "item" if new_items.issuperset(cells) else "both"


def routed_default(router: Router, side: SideName, defaults: Mapping[str, Sequence[float]]) -> tuple[float, ...]:
    """The row of an id of which nothing is known: the members' default rows, in the blocks of new ids."""
    filled = ((defaults[block[1]], router.fills(side, False, block)) for block in router.blocks)
    return tuple(value if speaks else 0.0 for default, speaks in filled for value in default)


def routed_rows(
    router: Router,
    side: SideName,
    rows: Mapping[str, DataFrame],
    defaults: Mapping[str, Sequence[float]],
    known: DataFrame,
) -> DataFrame:
    """DataFrame(id, factors, source struct<known boolean, members array<string>>) of a side, from `factor_rows` of each
    member and DataFrame(id) of the known ids.

    A member without a row of an id that has another one counts it as average; source.members are those that have one.
    """
    joined = known.withColumn("known", F.lit(True))
    place = {name: f"row_{n}" for n, name in enumerate(router.members)}
    for name, column in place.items():
        joined = joined.join(rows[name].select("id", F.col("factors").alias(column)), "id", "outer")
    joined = joined.withColumn("known", F.coalesce("known", F.lit(False)))
    having = F.array_compact(F.array(*(F.when(F.col(c).isNotNull(), F.lit(n)) for n, c in place.items())))
    factors = F.concat(*(_block(router, side, b, place[b[1]], defaults[b[1]]) for b in router.blocks))
    return joined.select("id", factors.alias("factors"), F.struct("known", having.alias("members")).alias("source"))


def _block(router: Router, side: SideName, block: tuple[bool, str], column: str, default: Sequence[float]) -> Column:
    row = F.coalesce(F.col(column), F.array(*map(F.lit, default)))
    zeros = F.array_repeat(F.lit(0.0), len(default))
    when_known, when_new = (row if router.fills(side, known, block) else zeros for known in FLAGS)
    return F.when(F.col("known"), when_known).otherwise(when_new)


def routed_speaker(router: Router, user_known: Column, item_known: Column) -> Column:
    """The member that speaks for a pair."""
    of_known, of_new = (
        F.when(item_known, F.lit(router.speaker(flag, True))).otherwise(F.lit(router.speaker(flag, False)))
        for flag in FLAGS
    )
    return F.when(user_known, of_known).otherwise(of_new)


def routed_source(router: Router) -> Callable[[Column, Column], Column]:
    """From the sources of a user and an item: "model:<member>" if the one that speaks has a row of both, else
    "baseline"; a null source is that of an id without any row."""

    def combined(user: Column, item: Column) -> Column:
        speaker = routed_speaker(router, *(F.coalesce(side["known"], F.lit(False)) for side in (user, item)))
        both = F.array_contains(user["members"], speaker) & F.array_contains(item["members"], speaker)
        return F.when(both, F.concat(F.lit(f"{MODEL}:"), speaker)).otherwise(F.lit(BASELINE))

    return combined


def routed_top_k(
    router: Router,
    own: SideName,
    rows: DataFrame,
    others: DataFrame,
    k: int,
    exclude: DataFrame | None = None,
    candidates: DataFrame | None = None,
) -> DataFrame:
    """`top_k` of `routed_rows`, for each id of the side `own` those of the other side, with its score_source."""
    nothing = F.lit(BASELINE)
    own_rows, other_rows = (frame.withColumn("source", nothing) for frame in (rows, others))
    lists = top_k(own_rows, other_rows, k, exclude, candidates=candidates)
    for column, frame in (("user", rows), ("item", others)):
        source = frame.select(F.col("id").alias(column), F.col("source").alias(f"{column}_source"))
        lists = lists.join(source, column, "left")
    sources = [F.col("user_source"), F.col("item_source")]
    users, items = sources if own is SideName.USERS else sources[::-1]
    return lists.select("user", "rank", "item", "score", routed_source(router)(users, items).alias("score_source"))
