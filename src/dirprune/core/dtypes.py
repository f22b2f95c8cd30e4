"""Types of numbers."""

import torch


def wide(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype for what must not be rounded to another: that one, but at least float32.

    Example:
        >>> wide(torch.bfloat16), wide(torch.float64)
        (torch.float32, torch.float64)
    """
    return torch.promote_types(dtype, torch.float32)
