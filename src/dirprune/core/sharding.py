"""Tensors of which each process holds a part (DTensor), and their parts."""

from typing import Any

from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor


def whole(tree: Any) -> Any:
    """Return a state with every sharded tensor gathered; collective: call it on every rank."""
    if isinstance(tree, dict):
        return {key: whole(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [whole(value) for value in tree]
    return tree.full_tensor() if isinstance(tree, DTensor) else tree


def local(tensor: Tensor) -> Tensor:
    """Return this process's part of a sharded tensor, and any other as it is."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def placed_like(tensor: Tensor, model: Tensor) -> Tensor:
    """Return a tensor divided as another one of its shape is; as it is where that one is not divided.

    Args:
        tensor: Whole, in every process; or divided in another way: tensor parallelism leaves some gradients
            as unfinished sums.
        model: The other one.
    """
    if not isinstance(model, DTensor) or tensor.shape != model.shape:
        return tensor
    if isinstance(tensor, DTensor):
        same = tensor.placements == model.placements
        return tensor if same else tensor.redistribute(placements=model.placements)
    return distribute_tensor(tensor.to(model.device), model.device_mesh, model.placements, src_data_rank=None)
