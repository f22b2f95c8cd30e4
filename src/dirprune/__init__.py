"""dirprune: train once, get a sparse network (directional pruning with the gRDA optimiser)."""

import importlib
import pkgutil
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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

_HOMES = {
    "GRDA": "dirprune.optim.grda",
    "SparsityReport": "dirprune.core.sparsity",
    "load_sparse": "dirprune.export.sparse_file",
    "prunable_groups": "dirprune.core.prunable",
    "save_sparse": "dirprune.export.sparse_file",
    "sparsity_report": "dirprune.core.sparsity",
}
_PARTS = [module.name for module in pkgutil.iter_modules(__path__) if module.name != "__main__"]


def __getattr__(name: str) -> Any:
    """Import a public name or part when it is first used: the command line answers before torch is loaded."""
    if name in _PARTS:
        return importlib.import_module(f"{__name__}.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'dirprune' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    """List the public names and parts, used or not."""
    return sorted({*globals(), *__all__, *_PARTS})
