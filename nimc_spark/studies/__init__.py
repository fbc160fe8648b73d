"""The papers' experiments as runs of the product: `reproduce STUDY`.

Adding a study is a module with one function `Lab → Page`, and its entry in `STUDIES`.
"""

from __future__ import annotations

from collections.abc import Mapping

from nimc_spark.studies.accuracy import accuracy, accuracy_large
from nimc_spark.studies.convergence import convergence
from nimc_spark.studies.genes import genes
from nimc_spark.studies.hessian import hessian
from nimc_spark.studies.movielens import movielens
from nimc_spark.studies.recovery import recovery
from nimc_spark.studies.study import Study
from nimc_spark.studies.tensor import tensor

STUDIES: Mapping[str, Study] = {
    "recovery": recovery,
    "convergence": convergence,
    "hessian": hessian,
    "tensor": tensor,
    "movielens": movielens,
    "genes": genes,
    "accuracy": accuracy,
    "accuracy-1m": accuracy_large,
}
