"""Small files, small networks, and fast execution of sparse ones."""

from dirprune.export.onnx_file import OnnxFileInfo, export_onnx
from dirprune.export.sizes import save_dense
from dirprune.export.slim import Slim, fit_shapes, slim
from dirprune.export.sparse_file import SparseFileInfo, load_sparse, save_sparse
from dirprune.export.sparse_runtime import SparseModel

__all__ = [
    "OnnxFileInfo",
    "Slim",
    "SparseFileInfo",
    "SparseModel",
    "export_onnx",
    "fit_shapes",
    "load_sparse",
    "save_dense",
    "save_sparse",
    "slim",
]
