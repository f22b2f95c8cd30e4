"""Small files from sparse networks."""

from dirprune.export.sparse_file import SparseFileInfo, load_sparse, save_sparse

__all__ = ["SparseFileInfo", "load_sparse", "save_sparse"]
