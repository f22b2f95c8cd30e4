"""Small files, small networks, and fast execution of sparse ones."""

from dirprune.export.slim import Slim, fit_shapes, slim
from dirprune.export.sparse_file import SparseFileInfo, load_sparse, save_sparse
from dirprune.export.sparse_runtime import SparseModel

__all__ = ["Slim", "SparseFileInfo", "SparseModel", "fit_shapes", "load_sparse", "save_sparse", "slim"]
