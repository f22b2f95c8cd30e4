"""Variants: the runs of one configuration over seeds, put into numbers."""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dirprune.core.wording import plain
from dirprune.errors import RunFolderError
from dirprune.report.reading import Run, Status, read_runs

Config = Mapping[str, Any]

_METHOD_NAMES = {"sgd": "SGD", "grda": "gRDA"}
_ONLY_GRDA = frozenset({"c", "mu", "penalty"})
_PENALTY = "l1"  # gRDA's own, which goes without saying
_ONLY_OTHERS = frozenset({"sparsity", "settings"})
_ONLY_PRUNING = frozenset({"prune"}) | _ONLY_GRDA | _ONLY_OTHERS  # settings that mean nothing to SGD


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation (None for a single value) of a few values."""

    mean: float
    sd: float | None
    values: tuple[float, ...]

    @classmethod
    def of(cls, values: Iterable[float]) -> "Spread | None":
        """Summarise values; None if there are none.

        Example:
            >>> Spread.of([1.0, 3.0])
            Spread(mean=2.0, sd=1.4142135623730951, values=(1.0, 3.0))
        """
        array = np.array(list(values), dtype=np.float64)
        if not array.size:
            return None
        with np.errstate(invalid="ignore"):  # the spread of an infinity is NaN, and is shown as such
            sd = float(array.std(ddof=1)) if array.size > 1 else None
            return cls(float(array.mean()), sd, tuple(array.tolist()))


@dataclass(frozen=True, eq=False)
class VariantSummary:
    """The runs that differ in nothing but the seed.

    The spreads are over finished runs and None without any: fractions in [0, 1] for `test_accuracy` and
    `sparsity`, bytes for `sparse_bytes`, seconds of training for `seconds`. `difference` is the accuracy
    minus that of the SGD run of the same seed, over the seeds for which both finished from equal weights;
    `twin` is the variant that those SGD runs make up, if there is one. `top5`, and `best` and `best_top5` of
    each run's best epoch, are None with ten classes or fewer.
    """

    label: str
    method: str
    measured_on: str
    runs: tuple[Run, ...]
    test_accuracy: Spread | None
    train_loss: Spread | None
    sparsity: Spread | None
    sparse_bytes: Spread | None
    dense_bytes: Spread | None
    seconds: Spread | None
    difference: Spread | None
    twin: "VariantSummary | None"
    top5: Spread | None
    best: Spread | None
    best_top5: Spread | None

    @property
    def finished(self) -> tuple[int, ...]:
        """Seeds that came to the end."""
        return self._seeds("finished")

    @property
    def diverged(self) -> tuple[int, ...]:
        """Seeds that met a non-finite loss or weight."""
        return self._seeds("diverged")

    @property
    def failed(self) -> tuple[int, ...]:
        """Seeds whose last attempt failed; they can be tried again."""
        return self._seeds("failed")

    @property
    def unfinished(self) -> tuple[int, ...]:
        """Seeds that were interrupted, or are still at work."""
        return self._seeds("unfinished")

    def _seeds(self, status: Status) -> tuple[int, ...]:
        return tuple(run.seed for run in self.runs if run.status == status)


def summarise(folder: str | os.PathLike[str]) -> tuple[VariantSummary, ...]:
    """Group the runs of an experiment folder into variants: SGD first, then from dense to sparse.

    Args:
        folder: A run folder, or a folder of run folders.

    Returns:
        A summary for each variant.

    Raises:
        RunFolderError: The folder holds no runs that can be read, or the same configuration and seed twice.
    """
    groups: dict[str, list[Run]] = {}
    for run in read_runs(folder):
        groups.setdefault(_key(_settings(run)), []).append(run)
    for runs in groups.values():
        _check_seeds(runs)
    labels = variant_labels([_settings(runs[0]) for runs in groups.values()])
    labelled = [
        (label, sorted(runs, key=lambda r: r.seed))
        for label, runs in zip(labels, groups.values(), strict=True)
    ]

    dense = [_summary(label, runs, None) for label, runs in labelled if runs[0].method == "sgd"]
    twins = {_key(_shared_with_sgd(summary.runs[0])): summary for summary in dense}
    others = [
        _summary(label, runs, twins.get(_key(_shared_with_sgd(runs[0]))))
        for label, runs in labelled
        if runs[0].method != "sgd"
    ]
    others.sort(key=lambda s: (s.sparsity is None, s.sparsity.mean if s.sparsity else 0.0, s.label))
    return (*sorted(dense, key=lambda s: s.label), *others)


def variant_labels(settings: Sequence[Config]) -> list[str]:
    """Name each variant by its method, and by the settings in which the variants differ.

    Args:
        settings: One configuration for each variant, without the seed.

    Returns:
        A label for each, printable whatever the configuration holds.

    Example:
        >>> variant_labels([{"method": "sgd"}, {"method": "grda", "c": 5e-4, "mu": 0.6}])
        ['SGD', 'gRDA c=5e-4 mu=0.6']
        >>> variant_labels([{"method": "grda", "c": 5e-4, "mu": 0.6, "penalty": "group"}])
        ['gRDA group c=5e-4 mu=0.6']
        >>> variant_labels([{"method": "sgd", "lr": 0.1}, {"method": "sgd", "lr": 0.2}])
        ['SGD lr=0.1', 'SGD lr=0.2']
    """
    pruning = [config for config in settings if config["method"] != "sgd"]
    varying = [key for key in differing(settings) if key not in {"method", *_ONLY_PRUNING}]
    varying_in_pruning = [key for key in differing(pruning) if key in _ONLY_PRUNING]
    labels = []
    for config in settings:
        method = config["method"]
        shown = [*(("penalty", "c", "mu") if method == "grda" else ()), *varying_in_pruning, *varying]
        foreign = _foreign(method)
        parts = [_setting(k, config[k]) for k in dict.fromkeys(shown) if k in config and k not in foreign]
        name = (
            "AdamW" if method == "sgd" and config.get("beta2") else _METHOD_NAMES.get(method, plain(method))
        )
        labels.append(" ".join([name, *filter(None, parts)]))
    return labels


def differing(settings: Sequence[Config]) -> list[str]:
    """Return the keys that do not have one and the same value in all, in order of appearance."""
    keys = dict.fromkeys(key for config in settings for key in config)
    return [key for key in keys if len({_key({key: c[key]} if key in c else {}) for c in settings}) > 1]


def _setting(key: str, value: object) -> str:
    """Write a setting with its name; those of other methods hold their names already."""
    if key == "settings" and isinstance(value, list):
        return " ".join(map(plain, value))
    if key == "penalty":
        return "" if value == _PENALTY else plain(value)
    if key == "sparsity" and value is None:
        return ""  # the method takes no target
    return f"{plain(key)}={plain(value)}"


def _foreign(method: str) -> frozenset[str]:
    """Return the settings that mean nothing to a method."""
    if method == "sgd":
        return _ONLY_PRUNING
    return _ONLY_OTHERS if method == "grda" else _ONLY_GRDA


def _settings(run: Run) -> Config:
    """What the runs of a variant have in common."""
    foreign = _foreign(run.method)
    defaults = {"penalty": _PENALTY} if run.method == "grda" else {}
    config = {**defaults, **run.config}  # of an earlier version, which had no choice
    return {key: value for key, value in config.items() if key != "seed" and key not in foreign}


def _shared_with_sgd(run: Run) -> Config:
    """What a run has in common with its SGD twin, seed aside."""
    return {key: value for key, value in run.config.items() if key not in {"seed", "method", *_ONLY_PRUNING}}


def _key(settings: Config) -> str:
    return json.dumps(settings, sort_keys=True)


def _check_seeds(runs: Sequence[Run]) -> None:
    """Refuse a run that counts twice, for it would fake certainty."""
    by_seed: dict[int, str] = {}
    for run in runs:
        if run.seed in by_seed:
            raise RunFolderError(
                f"{by_seed[run.seed]} and {run.name} are the same configuration and seed {run.seed}: "
                "move one of them out of the experiment folder"
            )
        by_seed[run.seed] = run.name


def _summary(label: str, runs: Sequence[Run], twin: VariantSummary | None) -> VariantSummary:
    done = [run.outcome for run in runs if run.outcome]
    rankings = [outcome.ranking for outcome in done if outcome.ranking]
    return VariantSummary(
        label=label,
        method=runs[0].method,
        measured_on="validation" if runs[0].config.get("validation") else "test",
        runs=tuple(runs),
        test_accuracy=Spread.of(outcome.test_accuracy for outcome in done),
        train_loss=Spread.of(outcome.train_loss for outcome in done),
        sparsity=Spread.of(outcome.sparsity for outcome in done),
        sparse_bytes=Spread.of(outcome.sparse_bytes for outcome in done),
        dense_bytes=Spread.of(outcome.dense_bytes for outcome in done),
        seconds=Spread.of(run.seconds for run in runs if run.outcome),
        difference=Spread.of(_differences(runs, twin.runs if twin else ())),
        twin=twin,
        top5=Spread.of(ranking.top5 for ranking in rankings),
        best=Spread.of(ranking.best for ranking in rankings),
        best_top5=Spread.of(ranking.best_top5 for ranking in rankings),
    )


def _differences(runs: Sequence[Run], twins: Sequence[Run]) -> list[float]:
    """Accuracy minus that of the twin, for each pair that finished and began from the same weights."""
    by_seed = {twin.seed: twin for twin in twins}
    differences = []
    for run in runs:
        twin = by_seed.get(run.seed)
        if not (twin and run.outcome and twin.outcome):
            continue
        if run.initial_weights is not None and run.initial_weights == twin.initial_weights:
            differences.append(run.outcome.test_accuracy - twin.outcome.test_accuracy)
    return differences
