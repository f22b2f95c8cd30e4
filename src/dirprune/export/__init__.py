"""Small files and fast execution of sparse networks."""

from dirprune.export.sparse_file import SparseFileInfo, load_sparse, save_sparse
from dirprune.export.sparse_runtime import SparseModel

__all__ = ["SparseFileInfo", "SparseModel", "load_sparse", "save_sparse"]
