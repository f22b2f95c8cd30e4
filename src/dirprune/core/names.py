"""Names of files that several parts write and read."""

SPARSE_FILE = "model.sparse.safetensors"
"""A network as a sparse file; `model.safetensors` is where other programs expect dense tensors."""
