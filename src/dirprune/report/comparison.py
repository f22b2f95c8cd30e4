"""The comparison of methods: what the runs of `dirprune compare` ended with, put into numbers."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dirprune.core.atomic import write_json
from dirprune.core.sparsity import LayerSparsity
from dirprune.core.wording import plain
from dirprune.errors import RunFolderError
from dirprune.report.reading import Run, read_runs
from dirprune.report.statistics import Estimate, estimate, paired_difference
from dirprune.runs import RunFolder


@dataclass(frozen=True, kw_only=True)
class Row:
    """A method at a wanted sparsity, over its finished seeds.

    Attributes:
        method: Its name.
        title: Its name as it is printed.
        target: The wanted sparsity; None: dense.
        settings: What the trials chose.
        needs_target: Whether the sparsity is given to it; if not, ``sparsity`` is what it came to.
        needs_pretrained: Whether it prunes a network that was trained first.
        needs_hessian: Whether it needs products with the Hessian.
        sparsity: 1 - non-zeros / parameters of the full network.
        accuracy: On the test images, a fraction; None where no seed finished.
        difference: To the reference at the same wanted sparsity, paired by seed; None without two pairs.
        difference_in_sparsity: The mean of what the method is sparser by in those pairs.
        train_loss: Of the last epoch, in training mode, the mean; None where no seed finished.
        seconds: Of training, the mean.
        macs: Multiplications of training that a machine would make that skips pruned weights; None: unknown.
        peak_bytes: Most memory, the greatest of the runs; None: unknown.
        seeds: Seeds that were to run, and how many finished.
        layers: Zeros of each weight, by tensor, the mean.
    """

    method: str
    title: str
    target: float | None
    settings: Mapping[str, float]
    needs_target: bool
    needs_pretrained: bool
    needs_hessian: bool
    sparsity: Estimate | None
    accuracy: Estimate | None
    difference: Estimate | None
    difference_in_sparsity: float | None
    train_loss: float | None
    seconds: float | None
    macs: float | None
    peak_bytes: float | None
    seeds: tuple[int, int]
    layers: Mapping[str, float]


@dataclass(frozen=True)
class Results:
    """The rows, by wanted sparsity and then from accurate to inaccurate, and the protocol in words.

    Of all parameters ``prunable`` is the part that a wanted sparsity is of.
    """

    protocol: tuple[str, ...]
    reference: str
    rows: tuple[Row, ...]
    prunable: float

    @property
    def targets(self) -> list[float]:
        """The wanted sparsities."""
        return sorted({row.target for row in self.rows if row.target is not None})

    @property
    def reference_title(self) -> str:
        """What the reference is called."""
        return next((row.title for row in self.rows if row.method == self.reference), self.reference)

    @property
    def dense_macs(self) -> float | None:
        """Multiplications of training the dense network by SGD; None where it is not compared."""
        return next((row.macs for row in self.rows if row.method == "sgd" and row.target is None), None)


@dataclass(frozen=True)
class _Done:
    """A finished run with what it cost."""

    run: Run
    result: Mapping[str, Any]
    accuracy: float
    sparsity: float
    train_loss: float


def read_comparison(folder: str | os.PathLike[str]) -> Results | None:
    """Read what `dirprune compare` wrote into a folder.

    Args:
        folder: Of the experiment.

    Returns:
        The results; None where the folder holds no comparison.

    Raises:
        RunFolderError: A file is damaged.
    """
    folder = Path(folder)
    path = folder / "comparison.json"
    if not path.is_file():
        return None
    runs = {run.name: run for run in read_runs(folder)}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return _results(content, folder, runs)
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
        raise RunFolderError(
            f"{path} cannot be read ({type(error).__name__}: {error}): run `dirprune compare` again"
        ) from None


def write_results(folder: str | os.PathLike[str], results: Results, environment: Mapping[str, Any]) -> Path:
    """Write the results as JSON and return the path."""
    content = {**asdict(results), "environment": environment}
    path = Path(folder) / "comparison-results.json"
    write_json(path, _finite(content))
    return path


def _results(content: Mapping[str, Any], folder: Path, runs: Mapping[str, Run]) -> Results:
    # Comparisons of before did not name the full network's parameters; most of them had a run of it.
    full = content.get("parameters") or max((_parameters(r) for r in runs.values() if r.outcome), default=1)
    reference = content["reference"]
    if not content["choices"]:
        raise ValueError("no method was chosen for")
    if not all(isinstance(sentence, str) for sentence in content["protocol"]):
        raise TypeError("the protocol is not a list of sentences")
    prunable = float(content.get("prunable", 1.0))  # which comparisons of before did not name
    if not 0 < prunable <= 1:
        raise ValueError(f"{prunable} is no part of the parameters")
    for choice in content["choices"]:
        if (wanted := choice["target"]) is not None and not 0 <= wanted < 1:
            raise ValueError(f"{wanted} is no sparsity")
    done: dict[tuple[str, float | None], dict[int, _Done]] = {}
    for choice in content["choices"]:
        found = [runs[name] for name in choice["runs"] if name in runs]
        done[choice["method"], choice["target"]] = {
            run.seed: _done(run, folder, full) for run in found if run.outcome
        }

    def paired(target: float | None) -> Mapping[int, _Done]:
        dense = done.get((reference, None), {})
        return done.get((reference, target), dense)

    rows = [
        _row(
            choice,
            content["methods"][choice["method"]],
            done[choice["method"], choice["target"]],
            {} if choice["method"] == reference else paired(choice["target"]),
        )
        for choice in content["choices"]
    ]
    rows.sort(key=lambda row: (row.target or 0.0, -row.accuracy.mean if row.accuracy else 1.0, row.method))
    return Results(tuple(content["protocol"]), reference, tuple(rows), prunable)


def _done(run: Run, folder: Path, full: int) -> _Done:
    assert run.outcome is not None
    kept = _parameters(run) - sum(layer.zeros for layer in run.outcome.layers)
    result = RunFolder(folder / run.name).result() or {}
    return _Done(run, result, run.outcome.test_accuracy, 1 - kept / full, run.outcome.train_loss)


def _row(
    choice: Mapping[str, Any],
    facts: Mapping[str, Any],
    done: Mapping[int, _Done],
    reference: Mapping[int, _Done],
) -> Row:
    pairs = [seed for seed in done if seed in reference]
    every = list(done.values())
    macs, peaks = (
        [float(each.result[key]) for each in every if each.result.get(key) is not None]
        for key in ("macs", "peak_bytes")
    )
    return Row(
        method=choice["method"],
        title=plain(facts["title"]),
        target=choice["target"],
        settings={
            name: float(value) for name, value in (choice["candidate"] or {}).get("values", {}).items()
        },
        needs_target=bool(facts["needs_target"]),
        needs_pretrained=bool(facts["needs_pretrained"]),
        needs_hessian=bool(facts["needs_hessian"]),
        sparsity=estimate([each.sparsity for each in every]) if every else None,
        accuracy=estimate([each.accuracy for each in every]) if every else None,
        difference=paired_difference(
            [done[seed].accuracy for seed in pairs], [reference[seed].accuracy for seed in pairs]
        )
        if len(pairs) > 1
        else None,
        difference_in_sparsity=sum(done[s].sparsity - reference[s].sparsity for s in pairs) / len(pairs)
        if len(pairs) > 1
        else None,
        train_loss=sum(each.train_loss for each in every) / len(every) if every else None,
        seconds=sum(each.run.seconds for each in every) / len(every) if every else None,
        macs=sum(macs) / len(macs) if macs else None,
        peak_bytes=max(peaks, default=None),
        seeds=(len(choice["runs"]), len(done)),
        layers=_mean_sparsities([each.run.outcome.layers for each in every if each.run.outcome]),
    )


def _mean_sparsities(networks: Sequence[tuple[LayerSparsity, ...]]) -> dict[str, float]:
    """Return the mean sparsity of each tensor of two or more dimensions."""
    names = [layer.name for layer in networks[0] if len(layer.shape) > 1] if networks else []
    return {
        name: sum(layer.sparsity for network in networks for layer in network if layer.name == name)
        / len(networks)
        for name in names
    }


def _parameters(run: Run) -> int:
    """Elements of a run's network."""
    return sum(layer.numel for layer in run.outcome.layers) if run.outcome else 0


def _finite(value: Any) -> Any:
    """Replace what is not finite, for JSON does not know it."""
    if isinstance(value, Mapping):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and value - value != 0 else value
