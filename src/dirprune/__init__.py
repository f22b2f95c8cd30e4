"""dirprune: train once, get a sparse network (directional pruning with the gRDA optimiser)."""

from dirprune.core.prunable import prunable_groups
from dirprune.core.sparsity import SparsityReport, sparsity_report
from dirprune.export.sparse_file import load_sparse, save_sparse
from dirprune.optim.grda import GRDA

__version__ = "0.1.0"

__all__ = [
    "GRDA",
    "SparsityReport",
    "__version__",
    "load_sparse",
    "prunable_groups",
    "save_sparse",
    "sparsity_report",
]
