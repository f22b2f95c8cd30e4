"""The weights of a network that another library trains, as a sparse file."""

import os
from pathlib import Path
from typing import cast

from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

from dirprune.export.sparse_file import save_sparse


def whole_state(model: nn.Module) -> dict[str, Tensor]:
    """State dict of a network without the wrappers of distributed training and compilation.

    Args:
        model: A module, also one that is wrapped by DDP or sharded by FSDP; then call it on every rank.

    Returns:
        Whole tensors by the names that they have in the plain module; of several processes, the first has
        them, the others have nothing.

    Example:
        >>> import torch
        >>> list(whole_state(torch.compile(nn.Linear(2, 1))))
        ['weight', 'bias']
    """
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    return cast(dict[str, Tensor], get_model_state_dict(model, options=options))


def write_sparse(model: nn.Module, path: str | os.PathLike[str], *, first_process: bool) -> None:
    """Write a network's sparse file, and the folder that it belongs into, from the first process.

    Args:
        model: As in :func:`whole_state`; all processes have to call this.
        path: The file.
        first_process: Whether this process is the one that writes.
    """
    state = whole_state(model)
    if first_process:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        save_sparse(state, path)
