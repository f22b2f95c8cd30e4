"""What tells functions, networks and data from others: hashes and descriptions, the same in every process."""

import hashlib
import inspect
from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn


def seed_of(name: str, seed: int, index: int) -> int:
    """Return a seed of its own for every step of a computation that has a name."""
    hashed = hashlib.sha256(repr((name, seed, index)).encode()).digest()
    return int.from_bytes(hashed[:8], "little", signed=True)


def description(function: Any) -> str:
    """Say which function or module this is: its name and settings.

    Settings are the attributes, of a module and of all of its parts, that are numbers, words, functions,
    tensors, or tuples and lists of such. Parameters and buffers are not among them.

    Example:
        >>> description(nn.functional.cross_entropy), description(nn.MSELoss())
        ('torch.nn.functional.cross_entropy', "torch.nn.modules.loss.MSELoss(reduction='mean')")
    """
    if isinstance(function, partial):
        given = [*map(repr, function.args), *(f"{name}={x!r}" for name, x in function.keywords.items())]
        return f"{description(function.func)}({', '.join(given)})"
    if not isinstance(function, nn.Module):
        return _name(function) if hasattr(function, "__qualname__") else _settings(function)
    parts = (
        f"{name}: {_settings(part)}" if name else _settings(part) for name, part in function.named_modules()
    )
    return "; ".join(parts)


def _settings(part: Any) -> str:
    """Return the name of an object's class and its plain attributes."""
    plain = {name: _plain(value) for name, value in vars(part).items() if not name.startswith("_")}
    held = {name: text for name, text in plain.items() if text is not None}
    if isinstance(part, nn.Module):
        held.pop("training", None)
    return f"{_name(type(part))}({', '.join(f'{name}={text}' for name, text in sorted(held.items()))})"


def setting_of(loss: Any, name: str) -> Any:
    """Return what a loss is told: a module's attribute; a function's argument, given or by default."""
    if isinstance(loss, nn.Module):
        return getattr(loss, name, None)
    try:
        argument = inspect.signature(loss).parameters.get(name)
    except (TypeError, ValueError):  # some built-in functions tell nothing of their arguments
        return None
    return None if argument is None or argument.default is inspect.Parameter.empty else argument.default


def held_tensors(function: Any) -> str:
    """Write the hash of a loss's own parameters and buffers, if it has any."""
    held = list(function.state_dict().values()) if isinstance(function, nn.Module) else []
    return f" with tensors {digest(held)[1]}" if held else ""


def _plain(value: Any) -> str | None:
    """Write a value that is the same in every process; None for others."""
    if isinstance(value, tuple | list):
        parts = [_plain(entry) for entry in value]
        return None if None in parts else f"({', '.join(map(str, parts))})"
    if value is None or isinstance(value, bool | int | float | str | torch.dtype):
        return repr(value)
    if isinstance(value, Tensor):
        return digest([value])[1]
    return _name(value) if hasattr(value, "__qualname__") else None


def _name(named: Any) -> str:
    return f"{named.__module__}.{named.__qualname__}"


def digest(tensors: Iterable[Tensor]) -> tuple[int, str]:
    """Count tensors and hash their shapes and bytes."""
    total, count = hashlib.sha256(), 0
    for count, tensor in enumerate(tensors, start=1):  # noqa: B007 - the last one is the number
        total.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
        total.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return count, total.hexdigest()[:16]
