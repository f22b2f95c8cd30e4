"""Small files, small networks, and fast execution of sparse ones."""

from dirprune.export.dense_file import DenseFileInfo, save_dense
from dirprune.export.onnx_file import OnnxFileInfo, export_onnx
from dirprune.export.slimming import SlimResult, load_slim, slim
from dirprune.export.sparse_file import SparseFileInfo, load_sparse, save_sparse
from dirprune.export.sparse_runtime import SparseModel

__all__ = [
    "DenseFileInfo",
    "OnnxFileInfo",
    "SlimResult",
    "SparseFileInfo",
    "SparseModel",
    "export_onnx",
    "load_slim",
    "load_sparse",
    "save_dense",
    "save_sparse",
    "slim",
]
