"""The comparison: tune every method with the same number of trials, then train what was chosen."""

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from dirprune.compare.archive import restore_runs, save_runs
from dirprune.compare.search import MOMENTA, PRICE, Candidate, Space, Trial, best
from dirprune.core.atomic import write_json
from dirprune.core.wording import counted
from dirprune.errors import UsageError, unknown
from dirprune.methods import METHODS
from dirprune.train import TrainConfig
from dirprune.tune.trials import TrialRunner

_ANSWER = "comparison.json"


@dataclass(frozen=True)
class Choice:
    """A method at a wanted sparsity with the settings that its trials chose, and the names of its runs.

    ``candidate`` is None, and there are no runs, where every trial diverged.
    """

    method: str
    target: float | None
    candidate: Candidate | None
    trial: Trial | None
    runs: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """What every method is given.

    Args:
        config: The recipe's settings; they hold for all methods: network, data, epochs, batch size, schedule
            of the rate, momentum, weight decay; ``validation`` is the part held back while tuning.
        methods: Names in :data:`dirprune.methods.METHODS`.
        sparsities: The wanted sparsities.
        seeds: Number of runs that are reported, each with a seed that no trial had.
        trials: For each method, for all wanted sparsities together.
        trial_seeds: Runs of each trial, which is judged by their mean.
        prunable: The part of all parameters that methods prune: a wanted sparsity is that of these weights.
        parameters: Of the full network; None: those of the largest that is trained.
        reference: The method that the others are paired with, seed by seed; default: gRDA, or the first where
            it is not among them.

    Raises:
        UsageError: Nothing would be compared.
    """

    config: TrainConfig
    methods: tuple[str, ...]
    sparsities: tuple[float, ...]
    seeds: int
    trials: int
    reference: str | None = None
    trial_seeds: int = 1
    prunable: float = 1.0
    parameters: int | None = None

    def __post_init__(self) -> None:
        for method in self.methods:
            if method not in METHODS:
                raise UsageError(unknown("method", method, METHODS))
            if self.config.beta2 and not METHODS[method].facts.adaptive:
                raise UsageError(f"{method} has no form with Adam's direction: leave it out, or `beta2` at 0")
        for name in ("methods", "sparsities"):
            values = getattr(self, name)
            if not values or len(set(values)) < len(values):
                raise UsageError(f"`{name}` must name something, and nothing twice; got {values}")
        if not all(0 < s < 1 for s in self.sparsities):
            raise UsageError(f"`sparsities` must be in (0, 1), got {self.sparsities}")
        if self.reference not in (None, *self.methods):
            raise UsageError(f"`reference` must be among the methods, got {self.reference!r}")
        for name in ("seeds", "trials", "trial_seeds"):
            if getattr(self, name) < 1:
                raise UsageError(f"`{name}` must be >= 1, got {getattr(self, name)}")
        if not 0 < self.prunable <= 1:
            raise UsageError(
                f"the part of the parameters that is pruned must be in (0, 1], got {self.prunable}"
            )
        if self.config.prune != "weights":
            raise UsageError("`prune` must be weights: some methods prune nothing else")
        if "grda" in self.methods and self.config.penalty != "l1":
            raise UsageError(
                f"grda is compared as published, with `penalty` l1, not {self.config.penalty}: "
                "grda-l0 and grda-rescaled are methods of their own"
            )
        if self.config.sparsity is not None or self.config.settings:
            raise UsageError("`sparsity` and `settings` are searched here: leave them out")
        for name in ("lr", "c") if "grda" in self.methods else ("lr",):
            if not getattr(self.config, name) > 0:
                raise UsageError(f"`{name}` must be > 0, for multiples of it are tried; it is 0")
        if not self.config.validation > 0:
            raise UsageError(f"`validation` must be > 0 for tuning, got {self.config.validation}")

    @property
    def paired_with(self) -> str:
        """The reference."""
        return self.reference or ("grda" if "grda" in self.methods else self.methods[0])

    @property
    def middle(self) -> float:
        """The wanted sparsity that settings are chosen at, for all methods alike."""
        return sorted(self.sparsities)[len(self.sparsities) // 2]

    @property
    def cells(self) -> list[tuple[str, float | None]]:
        """Every method at every wanted sparsity; what cannot be sparse, once."""
        return [
            (method, target)
            for method in self.methods
            for target in (self.sparsities if _prunes(method) else (None,))
        ]

    @property
    def runs(self) -> tuple[int, int]:
        """Number of runs of the trials, and of those that are reported."""
        return self.trials * self.trial_seeds * len(self.methods), self.seeds * len(self.cells)

    def trial_target(self, method: str, index: int) -> tuple[float | None, int | None]:
        """Return the wanted sparsity of a method's trial number ``index``, and the trial's group.

        Every trial has another setting, at the middle one of the wanted sparsities. Where the sparsity
        follows from a strength, the last trials, one for each of the other wanted sparsities, are of the
        group that was best: None.
        """
        if not _prunes(method):
            return None, index
        others = [sparsity for sparsity in sorted(self.sparsities) if sparsity != self.middle]
        settings = self.trials if METHODS[method].facts.needs_target else max(1, self.trials - len(others))
        return (self.middle, index) if index < settings else (others[index - settings], None)

    def words(self) -> list[str]:
        """State the protocol, a sentence each."""
        config = self.config
        momenta = " or ".join(f"{momentum:g}" for momentum in MOMENTA)
        nesterov = " (Nesterov's)" if config.nesterov else ""
        direction = (
            f"Adam's direction, with beta2 {config.beta2:g}, is what all take"
            if config.beta2
            else f"so is a momentum of {momenta}{nesterov}, except for those that take Adam"
        )
        laid_out = f" (laid out for {config.schedule_epochs} epochs)" if config.stops_early else ""
        each = "" if self.trial_seeds == 1 else f", each the mean over {self.trial_seeds} seeds"
        return [
            f"Every method has {counted(self.trials, 'trial')}{each}. The first has the recipe's rate of "
            f"{config.lr:g}, its momentum of {config.momentum:g} and the method's defaults but for the "
            "strength, the others are random, from the seed of the comparison. The learning rate is searched "
            f"for all, at the same places in its range, and {direction}.",
            f"Trials are measured on {config.validation:g} of the training images, held back from training; "
            "the test images are first looked at by the runs that are reported.",
            "All are tuned at the middle one of the wanted sparsities, and keep those settings at the "
            "others. A method that is told its target takes the most accurate of its trials. One that is not "
            "has to find its strengths within the same trials: it takes the settings that are predicted to "
            "be most accurate at the middle sparsity, where a trial that was too dense is thought to lose as "
            f"much as its trials of one setting did, and {100 * PRICE:g} points for each unit of the logit "
            "of the sparsity at least; its last trials try those settings at the other wanted sparsities, "
            "between which accuracy is interpolated, and the strength is corrected once more: by what the "
            "trials say, and where the threshold grows with the steps, for those that the images held back "
            "will add. Its own sparsity is what is shown.",
            f"What was chosen is trained on all training images with {counted(self.seeds, 'seed')} that no "
            "trial had: "
            "initial weights and order of the data are those of the seed, whatever the method.",
            f"All have {counted(config.epochs, 'epoch')}, dense phases and pretraining included, batches of "
            f"{config.batch_size}, the schedule {config.schedule}{laid_out}, "
            f"weight decay {config.weight_decay:g} "
            "where their optimiser has it, and prune weights of linear and convolutional layers only.",
            f"A wanted sparsity is that of these weights, {100 * self.prunable:.2f} % of all parameters. "
            "What is shown counts all parameters of the full network: 1 - non-zeros / parameters.",
        ]


class Comparison:
    """Trains all that a protocol asks for; what is done is not done again.

    Trials go into ``trials/`` of the folder, with ``trials.json`` beside it; what is reported goes into the
    folder itself, with ``comparison.json``.

    Args:
        protocol: What every method is given.
        runner: Where runs are trained.
        archive: A file that finished runs are kept in, and taken from where their folders are not there.
    """

    def __init__(
        self, protocol: Protocol, runner: TrialRunner, archive: str | os.PathLike[str] | None = None
    ) -> None:
        self._protocol = protocol
        self._runner = runner
        self._archive = None if archive is None else Path(archive)
        self._trials: list[Trial] = []

    def run(self) -> list[Choice]:
        """Tune, then train what was chosen.

        Returns:
            The choice for each method and wanted sparsity.

        Raises:
            FailedRunsError: Runs failed.
            StopRequested: Ctrl-C or SIGTERM came; the same call goes on from there.
        """
        self._trials.clear()
        self._take_from_archive()
        for index in range(self._protocol.trials):
            self._round(index)
        choices = self._choices()
        final = [self._final(choice) for choice in choices]
        for seed in range(self._protocol.seeds):  # all methods come equally far
            self._train(self._runner, [configs[seed] for configs in final if configs])
        self._write(_ANSWER, self._record(choices))
        return choices

    def replaces_another(self) -> bool:
        """Whether the folder holds the answer to another protocol; what cannot be read is made anew."""
        path = self._runner.folder / _ANSWER
        asked = {key: value for key, value in self._record(()).items() if key != "choices"}
        with suppress(FileNotFoundError, ValueError, AttributeError):
            held = json.loads(path.read_text(encoding="utf-8"))
            return any(held.get(key) != value for key, value in json.loads(json.dumps(asked)).items())
        return False

    def _take_from_archive(self) -> None:
        if self._archive is not None and self._archive.is_file():
            restore_runs(self._archive, self._runner.folder, self._runner.folder.name)

    def _round(self, index: int) -> None:
        """Try one more candidate for every method; record all trials."""
        protocol = self._protocol
        candidates, groups = [], []
        for method in protocol.methods:
            target, group = protocol.trial_target(method, index)
            past = [t for t in self._trials if t.candidate.method == method]
            if group is None:
                chosen = best(past, protocol.middle)
                group = chosen.group if chosen else 0
            candidates.append(Space(method, protocol.config).propose(target, past, group))
            groups.append(group)
        seeds = range(protocol.trial_seeds)
        sets = [_seeded(candidate.config(protocol.config), seeds) for candidate in candidates]
        runner = replace(self._runner, folder=self._runner.folder / "trials")
        results = self._train(runner, [config for configs in sets for config in configs])
        for candidate, group, configs in zip(candidates, groups, sets, strict=True):
            names = tuple(self._name(config) for config in configs)
            done = [results[name] for name in names]
            of_all, accuracy = _mean(done, "sparsity"), _mean(done, "test_accuracy")
            sparsity = None if of_all is None else min(1.0, of_all / protocol.prunable)
            seconds = sum(result["seconds"] for result in done)
            self._trials.append(Trial(candidate, group, names, sparsity, accuracy, seconds))
        self._write("trials.json", {"trials": [trial.to_json() for trial in self._trials]})

    def _train(self, runner: TrialRunner, configs: Sequence[TrainConfig]) -> dict[str, Mapping[str, Any]]:
        """Train runs, equal ones once, and return their results by name; hundreds of checkpoints are many."""
        unique = {self._name(config): config for config in configs}
        try:
            runs = runner.train(list(unique.values()), names=list(unique))
        finally:
            if self._archive is not None:
                self._take_from_archive()  # what another machine has added must not be lost
                save_runs(self._runner.folder, self._archive, self._runner.folder.name)
        for run in runs:
            run.drop_checkpoints()
        return {name: run.result() or {} for name, run in zip(unique, runs, strict=True)}

    def _choices(self) -> list[Choice]:
        choices = []
        for method, target in self._protocol.cells:
            tried = [trial for trial in self._trials if trial.candidate.method == method]
            trial = best(tried, None if target is None else self._protocol.middle)
            space = Space(method, self._protocol.config)
            longer = 1 / (1 - self._protocol.config.validation)  # nothing is held back any more
            candidate = space.corrected(trial, target, tried, longer) if trial else None
            choice = Choice(method, target, candidate, trial, ())
            names = tuple(self._name(config) for config in self._final(choice))
            choices.append(replace(choice, runs=names))
        return choices

    def _final(self, choice: Choice) -> list[TrainConfig]:
        """Return the runs that are reported of a choice."""
        if choice.candidate is None:
            return []
        config = choice.candidate.config(replace(self._protocol.config, validation=0.0))
        first = self._protocol.trial_seeds
        return _seeded(config, range(first, first + self._protocol.seeds))

    def _name(self, config: TrainConfig) -> str:
        """Name a run's folder; rate and momentum tell runs apart here."""
        head, seed = config.run_name.rsplit("-", 1)
        momentum = f"-momentum{config.momentum:g}" if config.momentum else ""
        return f"{head}-lr{config.lr:g}{momentum}-{seed}"

    def _record(self, choices: Sequence[Choice]) -> dict[str, Any]:
        protocol = self._protocol
        chosen: list[Mapping[str, Any]] = [asdict(choice) for choice in choices]
        return {
            "protocol": protocol.words(),
            "sparsities": protocol.sparsities,
            "prunable": protocol.prunable,
            "parameters": protocol.parameters,
            "seeds": protocol.seeds,
            "trials": protocol.trials,
            "reference": protocol.paired_with,
            "methods": {
                name: {
                    "title": _title(name, protocol.config),
                    "paper": METHODS[name].facts.paper,
                    "needs_target": METHODS[name].facts.needs_target,
                    "needs_pretrained": METHODS[name].facts.needs_pretrained,
                    "needs_hessian": METHODS[name].facts.needs_hessian,
                }
                for name in protocol.methods
            },
            "choices": chosen,
        }

    def _write(self, name: str, content: Mapping[str, Any]) -> None:
        self._runner.folder.mkdir(parents=True, exist_ok=True)
        write_json(self._runner.folder / name, content)


def _seeded(config: TrainConfig, seeds: range) -> list[TrainConfig]:
    """Return a run for each seed, counted from that of the configuration."""
    return [replace(config, seed=config.seed + seed) for seed in seeds]


def _mean(results: Sequence[Mapping[str, Any]], name: str) -> float | None:
    """Return the mean of a figure; None where a run diverged and has none."""
    values = [result.get(name) for result in results]
    return None if None in values else float(np.mean(values))  # type: ignore[arg-type]


def _prunes(method: str) -> bool:
    facts = METHODS[method].facts
    return facts.needs_target or facts.strength is not None


def _title(method: str, config: TrainConfig) -> str:
    """Name a method; entries of one class differ in how they share weights out among layers."""
    if method == "sgd" and config.beta2:
        return "dense AdamW"
    entry = METHODS[method]
    alike = [other for other in METHODS.values() if other.method is entry.method]
    return entry.facts.title + (f" ({entry.settings.distribution})" if len(alike) > 1 else "")
