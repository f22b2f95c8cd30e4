"""Sizes of one network as files of several kinds."""

import gzip
from pathlib import Path
from tempfile import TemporaryDirectory

from torch import nn

from dirprune.export.dense_file import dense_content
from dirprune.export.packing import Values
from dirprune.export.sparse_file import save_sparse

_SPARSE: dict[str, tuple[Values, bool]] = {
    "sparse": ("same", False),
    "sparse, zstd": ("same", True),
    "sparse, bf16": ("bf16", False),
    "sparse, fp16": ("fp16", False),
    "sparse, bf16, zstd": ("bf16", True),
    "sparse, fp16, zstd": ("fp16", True),
}


def dense_sizes(model: nn.Module) -> dict[str, int]:
    """Bytes of the dense file, and of the same file after gzip -9."""
    content = dense_content(model)
    return {"dense": len(content), "dense, gzip": len(gzip.compress(content, 9, mtime=0))}


def file_sizes(model: nn.Module) -> dict[str, int]:
    """Bytes of a network as each kind of file that this package writes but ONNX.

    Args:
        model: A module; of each kind it is written to a temporary folder.

    Returns:
        Bytes by the kind's name, the dense ones first.

    Example:
        >>> model = nn.Linear(100, 100)
        >>> _ = nn.init.zeros_(model.weight)
        >>> sizes = file_sizes(model)
        >>> sizes["sparse"] < sizes["dense"] / 10
        True
    """
    sizes = dense_sizes(model)
    with TemporaryDirectory() as folder:
        for kind, (values, compress) in _SPARSE.items():
            path = Path(folder) / "file"
            sizes[kind] = save_sparse(model, path, values=values, compress=compress).bytes
    return sizes
