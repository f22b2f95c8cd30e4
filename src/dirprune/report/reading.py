"""Run folders, read and checked: past this module every field is there and of its type."""

import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from dirprune.core.sparsity import LayerSparsity
from dirprune.errors import RunFolderError
from dirprune.runs import RunFolder, find_runs

Floats = NDArray[np.float64]
Status = Literal["finished", "diverged", "failed", "unfinished"]
CURVES = ("train_loss", "test_accuracy", "sparsity")

_T = TypeVar("_T")


@dataclass(frozen=True)
class Ranking:
    """Top-5 accuracy in the last epoch; top-1 and top-5 in the epoch with the best top-1."""

    top5: float
    best: float
    best_top5: float


@dataclass(frozen=True)
class Outcome:
    """What a finished run ended with; fractions in [0, 1], sizes in bytes.

    `ranking` is None with ten classes or fewer.
    """

    train_loss: float
    test_accuracy: float
    sparsity: float
    layers: tuple[LayerSparsity, ...]
    sparse_bytes: int
    dense_bytes: int
    ranking: Ranking | None


@dataclass(frozen=True)
class Warned:
    """What training found amiss: of which kind, in which layer ("" for none), and in a sentence."""

    kind: str
    where: str
    message: str


@dataclass(frozen=True, eq=False)
class Run:
    """One run.

    `curves` maps each name of `CURVES` to a float64 array as long as `epochs`, with NaN where a value is not
    finite. `outcome` is None unless the run finished; `message` says why it diverged or failed; `warnings`
    are what training found amiss.
    """

    name: str
    config: Mapping[str, Any]
    environment: Mapping[str, Any]
    method: str
    seed: int
    status: Status
    message: str
    epochs: Floats
    curves: Mapping[str, Floats]
    seconds: float
    initial_weights: str | None
    outcome: Outcome | None
    warnings: tuple[Warned, ...]

    @property
    def last_epoch(self) -> int:
        """The number of epochs on record."""
        return int(self.epochs[-1]) if self.epochs.size else 0


def read_runs(folder: str | os.PathLike[str]) -> list[Run]:
    """Read every run of an experiment folder.

    A run with a damaged file counts as failed, with the damage as its message. One whose configuration cannot
    be read belongs nowhere: it is left out with a warning.

    Args:
        folder: A run folder, or a folder of run folders.

    Returns:
        The runs, by name.

    Raises:
        RunFolderError: There is no run, or none whose configuration can be read.
    """
    runs, unreadable = [], []
    for run in find_runs(folder):
        try:
            config = _Record(run.config(), run.path / "config.json")
            config.take("method", str)
            config.take("seed", int)
        except RunFolderError as error:
            unreadable.append(error)
            continue
        try:
            runs.append(_read(run, config))
        except RunFolderError as error:
            runs.append(_damaged(run, config, str(error)))
    if not runs:
        raise unreadable[0]
    for reason in unreadable:
        warnings.warn(f"left out: {reason}", stacklevel=2)
    return runs


def _damaged(folder: RunFolder, config: "_Record", message: str) -> Run:
    """Return what is known of a run one of whose files is damaged."""
    nothing = np.array([], dtype=np.float64)
    return Run(
        name=folder.path.resolve().name,
        config=config.fields,
        environment={},
        method=config.take("method", str),
        seed=config.take("seed", int),
        status="failed",
        message=message,
        epochs=nothing,
        curves=dict.fromkeys(CURVES, nothing),
        seconds=0.0,
        initial_weights=None,
        outcome=None,
        warnings=(),
    )


def _read(folder: RunFolder, config: "_Record") -> Run:
    metrics = [_Record(line, folder.path / "metrics.jsonl") for line in folder.metrics()]
    timing = [_Record(line, folder.path / "timing.jsonl") for line in folder.timing()]
    content = folder.result()
    result = None if content is None else _Record(content, folder.path / "result.json")
    failure = None if result is not None else folder.failure()
    status = "failed" if failure is not None else _status(result)
    finished = result if status == "finished" else None
    hash_ = None if result is None else result.fields.get("initial_weights")
    return Run(
        name=folder.path.resolve().name,
        config=config.fields,
        environment=folder.environment() if (folder.path / "environment.json").is_file() else {},
        method=config.take("method", str),
        seed=config.take("seed", int),
        status=status,
        message=_message(folder, result, failure),
        epochs=np.array([record.count("epoch", least=1) for record in metrics], dtype=np.float64),
        curves={name: _finite([record.number(name) for record in metrics]) for name in CURVES},
        seconds=finished.number("seconds") if finished else sum(r.number("train_seconds") for r in timing),
        initial_weights=hash_ if isinstance(hash_, str) else None,
        outcome=_outcome(finished) if finished else None,
        warnings=tuple(_warned(_Record(line, folder.path / "warnings.jsonl")) for line in folder.warnings()),
    )


@dataclass(frozen=True)
class _Record:
    """A JSON object and the file it came from, for messages."""

    fields: Mapping[str, Any]
    path: Path

    def __post_init__(self) -> None:
        if not isinstance(self.fields, Mapping):
            raise RunFolderError(f"{self.path}: expected JSON objects, found {self.fields!r:.40}; {_REMEDY}")

    def take(self, key: str, kind: type[_T]) -> _T:
        """Return a field that must be there and be of a type."""
        value = self.fields.get(key)
        if not isinstance(value, kind) or isinstance(value, bool):
            found = f"holds {value!r:.40}" if key in self.fields else "is missing"
            raise RunFolderError(
                f"{self.path}: {key} must be of type {kind.__name__}, but {found}; {_REMEDY}"
            )
        return value

    def number(self, key: str) -> float:
        """Return a number; JSON null stands for one that is not finite."""
        if key in self.fields and self.fields[key] is None:
            return float("nan")
        value = self.fields.get(key)
        return float(value) if type(value) is int and abs(value) < 2**63 else self.take(key, float)

    def count(self, key: str, least: int = 0) -> int:
        """Return a whole number that is at least `least`."""
        value = self.take(key, int)
        if not least <= value < 2**63:
            raise RunFolderError(f"{self.path}: {key} must be {least} or more, not {value!r:.40}; {_REMEDY}")
        return value


_REMEDY = "restore that file, or remove its folder from the experiment"


def _status(result: _Record | None) -> Status:
    if result is None:
        return "unfinished"
    return "finished" if result.fields["status"] == "finished" else "diverged"


def _message(folder: RunFolder, result: _Record | None, failure: Mapping[str, Any] | None) -> str:
    """Why the run came to no good end; nothing for one that did, or is on its way."""
    if failure is not None:
        return _Record(failure, folder.path / "failure.json").take("message", str)
    return result.take("message", str) if result and _status(result) == "diverged" else ""


def _warned(line: _Record) -> Warned:
    return Warned(line.take("kind", str), line.take("where", str), line.take("message", str))


def _finite(values: list[float]) -> Floats:
    array = np.array(values, dtype=np.float64)
    array[~np.isfinite(array)] = np.nan
    return array


def _outcome(result: _Record) -> Outcome:
    layers = (_Record(layer, result.path) for layer in result.take("layers", list))
    return Outcome(
        train_loss=result.number("train_loss"),
        test_accuracy=result.number("test_accuracy"),
        sparsity=result.number("sparsity"),
        layers=tuple(_layer(layer) for layer in layers),
        sparse_bytes=result.count("sparse_bytes", least=1),
        dense_bytes=result.count("dense_bytes", least=1),
        ranking=_ranking(result) if "test_top5" in result.fields else None,
    )


def _ranking(result: _Record) -> Ranking:
    best = _Record(result.take("best", dict), result.path)
    return Ranking(result.number("test_top5"), best.number("test_accuracy"), best.number("test_top5"))


def _layer(record: _Record) -> LayerSparsity:
    shape = record.take("shape", list)
    if not all(type(size) is int and size >= 0 for size in shape):
        raise RunFolderError(f"{record.path}: a shape must list whole numbers, not {shape!r:.40}; {_REMEDY}")
    layer = LayerSparsity(record.take("name", str), tuple(shape), record.count("zeros"))
    if layer.zeros > layer.numel:
        raise RunFolderError(
            f"{record.path}: {layer.name:.40} has {layer.zeros} zeros among {layer.numel} elements; {_REMEDY}"
        )
    return layer
