"""Rounding to bfloat16 up or down by chance, so that updates too small for it arrive on average."""

import torch
from torch import Tensor


def round_stochastically(values: Tensor, step: Tensor) -> Tensor:
    r"""Round float32 to one of the two neighbours in bfloat16, to the nearer one more often.

    .. math:: P(\text{up}) = (x - x_\text{down}) / (x_\text{up} - x_\text{down}), \qquad E[\text{result}] = x

    The chance is a hash of the value's bits and of the number of the step. So it needs no generator and no
    state, and is the same on every device, for every layout, sharding and number of threads. Equal values
    are rounded alike within a step; in training their gradients make them differ.

    Args:
        values: float32, any shape. Infinities and NaN stay as they are.
        step: Number of the step, a 0-dim tensor.

    Returns:
        bfloat16, of the shape of ``values``.

    Example:
        >>> x = torch.full((1,), 1 + 2**-8)  # in the middle between 1 and 1 + 2**-7
        >>> rounded = [round_stochastically(x, torch.tensor(n)).item() for n in range(1000)]
        >>> sorted(set(rounded)), abs(sum(rounded) / 1000 - x.item()) < 0.001
        ([1.0, 1.0078125], True)
    """
    bits = values.view(torch.int32)
    noise = _mixed(bits ^ _mixed(step.to(device=values.device, dtype=torch.int32))) & 0xFFFF
    rounded = ((bits + noise) & -0x10000).view(torch.float32)
    return torch.where(values.isfinite(), rounded, values).to(torch.bfloat16)


def _mixed(bits: Tensor) -> Tensor:
    """Hash int32 to int32, all bits depending on all; products wrap round."""
    bits = (bits ^ (bits >> 16 & 0xFFFF)) * 0x7FEB352D
    bits = (bits ^ (bits >> 15 & 0x1FFFF)) * (0x846CA68B - 2**32)
    return bits ^ (bits >> 16 & 0xFFFF)
