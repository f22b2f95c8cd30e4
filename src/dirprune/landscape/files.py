"""Results as files: JSON with the evidence, tensors beside it; and what lets long work go on after a stop."""

import hashlib
import json
import math
import os
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar, Union, get_args, get_origin, get_type_hints

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor

from dirprune.core.atomic import atomic_write, write_json
from dirprune.errors import RunFolderError

Json = dict[str, Any]
Progress = Callable[[str, int, int | None], None]
R = TypeVar("R", bound="Result")


def no_progress(stage: str, done: int, total: int | None) -> None:
    """Ignore progress."""


@dataclass(frozen=True, eq=False)
class Result:
    """Base of all results.

    Attributes:
        request: Everything that the result depends on: settings, seeds, hashes of weights and data.
    """

    kind: ClassVar[str]
    request: Json

    def save(self, folder: str | os.PathLike[str], environment: Mapping[str, Any]) -> Path:
        """Write ``KIND.json``, and ``KIND.safetensors`` if there are tensors, whole or not at all.

        Args:
            folder: Made if it is missing.
            environment: Where, when and by what command the result was made.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        tensors = {name: value for name, value in values.items() if isinstance(value, Tensor)}
        plain = {name: _plain(value) for name, value in values.items() if name not in tensors}
        if tensors:
            with atomic_write(folder / f"{self.kind}.safetensors") as file:
                file.write(save({name: tensor.contiguous() for name, tensor in tensors.items()}))
        content = {"kind": self.kind, "environment": dict(environment), **plain}
        path = folder / f"{self.kind}.json"
        write_json(path, content, indent=None)
        return path

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> Self | None:
        """Read what :meth:`save` wrote, or return None if there is nothing.

        Raises:
            RunFolderError: A file is damaged.
        """
        folder = Path(folder)
        path = folder / f"{cls.kind}.json"
        if not path.is_file():
            return None
        content = _read_json(path)
        hints = get_type_hints(cls)
        values: dict[str, Any] = {}
        stored = _read_tensors(folder / f"{cls.kind}.safetensors", cls)
        for field in fields(cls):
            hint = hints[field.name]
            if hint is Tensor:
                values[field.name] = stored[field.name]
            else:
                values[field.name] = _restored(hint, content.get(field.name), f"{path}: {field.name}")
        return cls(**values)

    @classmethod
    def environment(cls, folder: str | os.PathLike[str]) -> Json:
        """Return where and how the result in a folder was made."""
        environment: Json = _read_json(Path(folder) / f"{cls.kind}.json").get("environment", {})
        return environment


def keep(
    kind: type[R],
    folder: str | os.PathLike[str],
    request: Json,
    environment: Mapping[str, Any],
    make: Callable[["Store"], R],
) -> R:
    """Return the result of a request from its folder, or make it, going on from where a stop came.

    Args:
        kind: Of the result.
        folder: Where it lies.
        request: What it depends on.
        environment: Where, when and by what command it is made.
        make: Makes it.

    Raises:
        RunFolderError: The folder holds the result of another request.
    """
    folder = Path(folder)
    held = kind.load(folder)
    if held is not None:
        wanted = json.loads(json.dumps(_plain(request)))
        for key in wanted | held.request:
            if wanted.get(key) != held.request.get(key):
                raise RunFolderError(
                    f"{folder / kind.kind}.json was made with {key}={held.request.get(key)!r}, "
                    f"not {wanted.get(key)!r}: choose another `folder`, or delete that file"
                )
        return held
    store = Store(folder, request, kind.kind)
    result = make(store)
    result.save(folder, environment)
    store.clear()
    return result


class Store:
    """What is done so far of one long computation, in one file, so that the same call goes on from there.

    Args:
        folder: Where the file lies; None to keep nothing.
        request: What the computation depends on: another request has another file.
        name: Of the computation.
    """

    def __init__(self, folder: str | os.PathLike[str] | None, request: Mapping[str, Any], name: str) -> None:
        key = hashlib.sha256(json.dumps(_plain(request), sort_keys=True).encode()).hexdigest()[:12]
        self._path = Path(folder) / f".{name}-{key}.partial" if folder else None
        self.values: Json = {}
        self.tensors: dict[str, Tensor] = {}
        if self._path and self._path.is_file():
            try:
                with safe_open(self._path, "pt") as file:
                    self.values = json.loads((file.metadata() or {})["values"])
                    self.tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            except (SafetensorError, KeyError, ValueError) as error:
                raise RunFolderError(f"{self._path} is damaged ({error}): delete it to start anew") from None

    def save(self) -> None:
        """Write values and tensors as they are now."""
        if self._path:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            tensors = {name: tensor.contiguous() for name, tensor in self.tensors.items()}
            with atomic_write(self._path) as file:
                file.write(save(tensors, {"values": json.dumps(self.values)}))

    def beside(self, name: str) -> Path | None:
        """Return a path for what is too large to be written as a whole each time; None to keep nothing."""
        return self._path.with_name(f"{self._path.name}-{name}") if self._path else None

    def clear_beside(self) -> None:
        """Remove what lies beside the file: it is no longer needed."""
        if self._path:
            for path in self._path.parent.glob(f"{self._path.name}-*"):
                path.unlink()

    def clear(self) -> None:
        """Forget it all: the result has been written."""
        self.clear_beside()
        if self._path:
            self._path.unlink(missing_ok=True)


def _plain(value: Any) -> Any:
    """Return what JSON can hold; null stands for a number that is not finite."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return value


def _restored(hint: Any, value: Any, where: str) -> Any:
    """Return a JSON value as the type that a field has."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        kinds = [kind for kind in arguments if kind is not type(None)]
        return None if value is None else _restored(kinds[0], value, where)
    if hint is float:
        if value is None:
            return math.nan
        if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
    elif origin is tuple and isinstance(value, list):
        kinds = [arguments[0]] * len(value) if arguments[-1] is Ellipsis else list(arguments)
        if len(kinds) == len(value):
            return tuple(_restored(kind, entry, where) for kind, entry in zip(kinds, value, strict=True))
    elif is_dataclass(hint) and isinstance(value, dict):
        return _dataclass(hint, value, where)
    elif type(value) is (origin or hint):  # int, str, bool, dict
        return value
    raise RunFolderError(
        f"{where} must be of type {hint}, not {value!r:.40}: delete that file to make it anew"
    )


def _dataclass(kind: Any, value: Json, where: str) -> Any:
    hints = get_type_hints(kind)
    return kind(
        **{field.name: _restored(hints[field.name], value.get(field.name), where) for field in fields(kind)}
    )


def _read_json(path: Path) -> Json:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise RunFolderError(f"{path} is not valid JSON ({error}): delete it to make it anew") from None
    if not isinstance(content, dict):
        raise RunFolderError(f"{path} must hold a JSON object: delete it to make it anew")
    return content


def _read_tensors(path: Path, kind: type[Result]) -> dict[str, Tensor]:
    wanted = {name for name, hint in get_type_hints(kind).items() if hint is Tensor}
    if not wanted:
        return {}
    try:
        stored = load_file(path)
    except (OSError, SafetensorError) as error:
        raise RunFolderError(
            f"{path} cannot be read ({error}): delete {kind.kind}.json to make it anew"
        ) from None
    if set(stored) != wanted or not all(torch.is_floating_point(tensor) for tensor in stored.values()):
        raise RunFolderError(
            f"{path} does not hold {sorted(wanted)}: delete {kind.kind}.json to make it anew"
        )
    return stored
