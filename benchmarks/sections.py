"""The sections of the report, by the names that `--only` takes."""

from collections.abc import Callable, Iterator

from benchmarks import measures
from benchmarks.matrices import matrices
from benchmarks.measures import Row, Sizes
from benchmarks.posterior import posterior
from benchmarks.sampling import sampling

SECTIONS: dict[str, Callable[[Sizes], Iterator[Row]]] = {
    "large": measures.large_leaf,
    "highway": measures.highway,
    "training": measures.training,
    "parameters": measures.parameters,
    "leaves": measures.leaves,
    "matrices": matrices,
    "posterior": posterior,
    "sampling": sampling,
}
