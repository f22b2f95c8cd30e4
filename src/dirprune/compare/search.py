"""What to try next: random search; methods without a target steer their strength towards a sparsity."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from dirprune.methods import METHODS, Facts, Search
from dirprune.train import TrainConfig
from dirprune.tune.odds import log_odds

MOMENTA = (0.0, 0.9)
"""Tried by turns for every method whose optimiser has SGD's momentum."""
_LR_RANGE = (0.3, 5.0)  # times the recipe's
_BEYOND = 0.25  # of its range: how far a strength may go outside it, and outside of what was tried
# Before any trial, the logit of the sparsity is taken to rise from -3 to 5 over a strength's range: the
# methods' ranges are such that it does in a few thousand steps of a LeNet.
_PRIOR = (-3.0, 8.0)
_TRUST = (0.05, 0.02, 0.02)  # in the prior: intercept, slope, every other setting
_KIN = 10.0  # trials of other settings that one of the same setting outweighs, where a strength is steered
PRICE = 0.02
"""Accuracy that a unit of the logit of the sparsity is taken to cost, at the least."""
_TOO_NEAR = 0.02  # squares of logits: trials a tenth of a unit to either side say little of a slope
_RANGES_AT = 0.1  # the rate at which the ranges of methods hold


@dataclass(frozen=True)
class Candidate:
    """A method at a wanted sparsity (None: dense) with values for what is searched, by name."""

    method: str
    target: float | None
    values: Mapping[str, float]

    def config(self, base: TrainConfig) -> TrainConfig:
        """Return the run of a recipe that the candidate describes."""
        values = dict(self.values)
        momentum = values.pop("momentum", base.momentum)
        base = replace(base, momentum=momentum, nesterov=base.nesterov and momentum > 0)
        if "lr" not in _own_settings(self.method):
            base = replace(base, lr=values.pop("lr", base.lr))
        if self.method == "grda":
            base = replace(base, c=values.pop("c", base.c))
        settings = tuple(f"{name}={value:g}" for name, value in values.items())
        return replace(base, sparsity=self.target, settings=settings).with_method(self.method)


@dataclass(frozen=True)
class Trial:
    """A candidate that was trained; sparsity and validation accuracy are None where it diverged.

    The sparsity is that of the weights that are pruned, as a wanted one is. Trials of one group share all
    settings but the strength. With several seeds, the figures are means over the runs, and one run that
    diverged takes the trial with it.
    """

    candidate: Candidate
    group: int
    runs: tuple[str, ...]
    sparsity: float | None
    accuracy: float | None
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Return what JSON can hold."""
        return asdict(self)


@dataclass(frozen=True)
class Space:
    """What is searched of a method: its facts' ranges, momentum, and the learning rate.

    Args:
        method: Name of the method.
        base: The recipe's settings.

    Example:
        >>> base = TrainConfig(recipe="mine", dataset="digits", model="lenet5", lr=0.1)
        >>> [search.setting for search in Space("rigl", base).searches]
        ['drop', 'every', 'lr']
    """

    method: str
    base: TrainConfig

    @property
    def facts(self) -> Facts:
        """Of the method."""
        return METHODS[self.method].facts

    @property
    def searches(self) -> tuple[Search, ...]:
        """The ranges beside the momentum."""
        if any(search.setting == "lr" for search in self.facts.search):
            return self.facts.search
        low, high = (factor * self._plain_lr for factor in _LR_RANGE)
        return (*self.facts.search, Search("lr", low, high, momentum_power=1))

    @property
    def momenta(self) -> tuple[float, ...]:
        """What momentum is tried: with Adam's direction the recipe's alone."""
        return (self.base.momentum,) if self.base.beta2 else MOMENTA

    @property
    def _plain_lr(self) -> float:
        """The recipe's rate without its momentum; Adam's steps are as long as the rate anyway."""
        return self.base.lr / (1.0 if self.base.beta2 else 1 - self.base.momentum)

    def default(self) -> dict[str, float]:
        """Return where the search begins: the recipe's values, or the method's own defaults."""
        held = METHODS[self.method].settings
        grda = {"c": self.base.c} if self.method == "grda" else {}
        values = {
            search.setting: float(grda.get(search.setting, getattr(held, search.setting, self.base.lr)))
            for search in self.searches
        }
        return {**values, "momentum": self.base.momentum} if self.facts.momentum else values

    def other_momentum(self, values: Mapping[str, float]) -> dict[str, float]:
        """Return settings that do much the same with the other momentum."""
        after = next(momentum for momentum in MOMENTA if momentum != values["momentum"])
        places = {s.setting: self._place(s, values) for s in self.searches}
        return self._at(places, after)

    def drawn(self, group: int, momentum: float) -> dict[str, float]:
        """Draw a point, uniform on each setting's scale, from the recipe's seed.

        Where in its range the rate lies is the same for all methods, so that none is lucky with it alone.
        """
        shared = np.random.default_rng([self.base.seed, group])
        own = np.random.default_rng([self.base.seed, group, *self.method.encode()])
        places = {s.setting: (shared if s.setting == "lr" else own).random() for s in self.searches}
        return self._at(places, momentum)

    def propose(self, target: float | None, past: Sequence[Trial], group: int) -> Candidate:
        """Return what to try for a target, as another trial of a group.

        Group 0 has the default settings but for the strength, group 1 the same with the other momentum, all
        others are drawn at random, their momenta by turns. Where the sparsity follows from a strength, that
        is what its range and the trials so far predict to give the target, above all those of the group.

        Args:
            target: The wanted sparsity; None: dense.
            past: The method's finished trials, for all targets.
            group: Counted from 0.
        """
        mates = [trial for trial in past if trial.group == group]
        if mates:
            values = dict(mates[-1].candidate.values)
        elif group == 0:
            values = self.default()
        elif group == 1 and self.facts.momentum and len(self.momenta) > 1:
            values = self.other_momentum(self.default())
        else:
            values = self.drawn(group, self.momenta[group % len(self.momenta)])
        if self.facts.strength is not None and target is not None:
            values = self._steered(values, target, past, mates)
        return Candidate(self.method, target, values)

    def corrected(
        self, trial: Trial, target: float | None, past: Sequence[Trial], longer: float = 1.0
    ) -> Candidate:
        """Return a trial's settings for a wanted sparsity that need not be the trial's.

        Args:
            trial: Whose settings.
            target: The wanted sparsity; None: dense.
            past: The method's finished trials, for all targets.
            longer: Steps of the run that is to come, in those of a trial.
        """
        values = trial.candidate.values
        if self.facts.strength is not None and target is not None:
            mates = [each for each in past if each.group == trial.group]
            values = self._steered(values, target, past, mates or [trial])
        values = {
            **values,
            **{
                s.setting: _figures(values[s.setting] * longer**s.steps_power)
                for s in self.searches
                if s.steps_power
            },
        }
        return Candidate(self.method, target, values)

    def _steered(
        self, values: Mapping[str, float], target: float, past: Sequence[Trial], mates: Sequence[Trial]
    ) -> dict[str, float]:
        """Return settings with the strength that is predicted to give a sparsity beside the others.

        The logit of the sparsity is fitted as affine in all settings on their scales, by least squares with a
        prior; trials near the target weigh most, above all the mates, which differ in the strength alone and
        have an intercept of their own. It then is shifted to go through the nearest of the mates.
        """
        strength = self.facts.strength
        assert strength is not None
        order = sorted(self.searches, key=lambda search: search.setting != strength)
        seen = [t for t in past if t.sparsity is not None]

        def row(at: Mapping[str, float], of_mate: bool = True) -> list[float]:
            places = [self._place(search, at) for search in order]
            return [1.0, *places, at.get("momentum", 0.0), float(of_mate)]

        prior = np.zeros(len(order) + 3)
        prior[:2] = _PRIOR
        trust = np.array([*_TRUST[:2], *[_TRUST[2]] * (len(order) + 1)])
        related = [trial in mates for trial in seen]
        x = np.array([row(t.candidate.values, mate) for t, mate in zip(seen, related, strict=True)])
        x = x.reshape(-1, len(prior))
        y = np.array([_logit(t.sparsity or 0.0) for t in seen])
        weight = np.where(related, _KIN, 1.0) / (1 + (y - _logit(target)) ** 2)
        weighted = x.T * weight
        fitted = prior + np.linalg.solve(weighted @ x + np.diag(trust), weighted @ (y - x @ prior))
        known = [trial for trial in mates if trial.sparsity is not None]
        if known:
            near = min(known, key=lambda trial: abs(_logit(trial.sparsity or 0.0) - _logit(target)))
            fitted[0] += _logit(near.sparsity or 0.0) - float(np.array(row(near.candidate.values)) @ fitted)
        rest = np.array(row(values))
        rest[1] = 0.0
        place = (_logit(target) - float(rest @ fitted)) / max(1.0, float(fitted[1]))
        tried = [self._place(order[0], trial.candidate.values) for trial in seen]
        place = min(max([1.0, *tried]) + _BEYOND, max(min([0.0, *tried]) - _BEYOND, place))
        return {**values, strength: self._value(order[0], place, values)}

    def _at(self, places: Mapping[str, float], momentum: float) -> dict[str, float]:
        """Return the settings at these places, with a momentum where the method has one."""
        values = {"momentum": momentum} if self.facts.momentum else {}
        for search in sorted(self.searches, key=lambda each: each.setting != "lr"):  # others may depend on it
            values[search.setting] = self._value(search, places[search.setting], values)
        return {**{s.setting: values[s.setting] for s in self.searches}, **values}

    def _unit(self, search: Search, values: Mapping[str, float]) -> float:
        """Return what a setting is measured in, beside the other settings."""
        if self.base.beta2:  # Adam's steps are as long as the rate, whatever the momentum
            return 1.0 if search.setting == "lr" else (values["lr"] / _RANGES_AT) ** search.momentum_power
        slow = 1 - values.get("momentum", 0.0)
        unit: float = slow**search.momentum_power
        if search.lr_power:
            unit *= (values["lr"] / slow / _RANGES_AT) ** search.lr_power
        return unit

    def _place(self, search: Search, values: Mapping[str, float]) -> float:
        """Return where a setting lies in its range: 0 to 1."""
        value = values[search.setting] / self._unit(search, values)
        if search.log:
            return math.log(value / search.low) / math.log(search.high / search.low)
        return (value - search.low) / (search.high - search.low)

    def _value(self, search: Search, place: float, values: Mapping[str, float]) -> float:
        """Return the value at a place beside other settings, to four figures or whole."""
        if search.log:
            value = search.low * (search.high / search.low) ** place
        else:
            value = search.low + (search.high - search.low) * place
        value *= self._unit(search, values)
        default = getattr(METHODS[self.method].settings, search.setting, 0.0)
        return float(round(value)) if type(default) is int else _figures(value)


def best(trials: Sequence[Trial], target: float | None) -> Trial | None:
    """Return the trial whose settings are taken.

    The highest validation accuracy. Where the sparsity follows from a strength, trials came to sparsities of
    their own: then the settings of the highest accuracy that is predicted at the target, by their trial that
    came nearest to it. On the scale of the logit, the prediction is linear between trials of one setting, a
    constant below them, and falls above them: as fast as accuracy fell between trials that differ in the
    strength alone, and by :data:`PRICE` at least. None where all diverged.
    """
    done = [trial for trial in trials if trial.accuracy is not None]
    if not done:
        return None
    if target is None or METHODS[done[0].candidate.method].facts.strength is None:
        return max(done, key=lambda t: t.accuracy or 0.0)
    wanted, price = _logit(target), _price(done)

    def predicted(group: int) -> float:
        points = sorted(_point(t) for t in done if t.group == group)
        reached = [logit for logit, _ in points]
        accuracy = float(np.interp(wanted, reached, [accuracy for _, accuracy in points]))
        return accuracy - price * max(0.0, wanted - reached[-1])

    group = max(dict.fromkeys(t.group for t in done), key=predicted)
    mates = [t for t in done if t.group == group]
    return min(mates, key=lambda t: abs(_logit(t.sparsity or 0.0) - wanted))


def _price(done: Sequence[Trial]) -> float:
    """Return what a unit of the logit costs: the slope of accuracy within groups, by least squares."""
    groups = {trial.group: [_point(mate) for mate in done if mate.group == trial.group] for trial in done}
    apart = np.concatenate([np.array(points) - np.mean(points, axis=0) for points in groups.values()])
    square = float(apart[:, 0] @ apart[:, 0])
    return max(PRICE, -float(apart[:, 0] @ apart[:, 1]) / square) if square > _TOO_NEAR else PRICE


def _point(trial: Trial) -> tuple[float, float]:
    """Return the logit of the sparsity and the accuracy."""
    return _logit(trial.sparsity or 0.0), trial.accuracy or 0.0


def _figures(value: float) -> float:
    """Round to four figures: a name has to hold it."""
    return float(f"{value:.4g}")


def _own_settings(method: str) -> set[str]:
    """Return the names of a method's settings."""
    return set(vars(METHODS[method].settings))


def _logit(sparsity: float) -> float:
    """Return the log odds of a sparsity; below half a percent all count alike."""
    return log_odds(max(sparsity, 0.005), margin=0.0005)
