"""Methods by name."""

from dataclasses import dataclass, fields, replace
from typing import Any

from dirprune.core.threshold import Penalty
from dirprune.errors import HyperparameterError, UsageError, unknown
from dirprune.methods.acdc import ACDC, AcdcSettings
from dirprune.methods.base import Facts, Method, NoSettings
from dirprune.methods.bregman import AdaBreg, AdaBregSettings, BregmanSettings, LinBreg
from dirprune.methods.dense import Dense, SmallDense
from dirprune.methods.directional import Directional, DirectionalSettings
from dirprune.methods.grda import (
    Grda,
    GrdaL0,
    GrdaL0Settings,
    GrdaRescaled,
    GrdaRescaledSettings,
    GrdaSettings,
)
from dirprune.methods.l0 import L0, L0Settings
from dirprune.methods.magnitude import GradualMagnitude, Magnitude, MagnitudeSettings
from dirprune.methods.masked import GradualSettings
from dirprune.methods.proximal import ProximalL1, ProximalSettings
from dirprune.methods.random import RandomPruning
from dirprune.methods.rda import RDA, RdaSettings
from dirprune.methods.rigl import RigL, RigLSettings
from dirprune.methods.set import SET, SetSettings
from dirprune.methods.snip import Snip, SnipSettings
from dirprune.methods.st3 import ST3, St3Settings
from dirprune.methods.str import STR, StrSettings
from dirprune.methods.variational_dropout import VariationalDropout, VariationalDropoutSettings


@dataclass(frozen=True)
class Entry:
    """A method under a name: its class, and the settings it has there."""

    method: type[Method[Any]]
    settings: Any

    @property
    def facts(self) -> Facts:
        """What a table has to say of it."""
        return self.method.facts


METHODS: dict[str, Entry] = {
    "sgd": Entry(Dense, NoSettings()),
    "small-dense": Entry(SmallDense, NoSettings()),
    "grda": Entry(Grda, GrdaSettings()),
    "grda-l0": Entry(GrdaL0, GrdaL0Settings()),
    "grda-rescaled": Entry(GrdaRescaled, GrdaRescaledSettings()),
    "magnitude": Entry(Magnitude, MagnitudeSettings()),
    "directional": Entry(Directional, DirectionalSettings()),
    "gradual": Entry(GradualMagnitude, GradualSettings(distribution="global")),
    "gradual-uniform": Entry(GradualMagnitude, GradualSettings(distribution="uniform")),
    "gradual-erk": Entry(GradualMagnitude, GradualSettings(distribution="erk")),
    "random": Entry(RandomPruning, GradualSettings(distribution="uniform")),
    "snip": Entry(Snip, SnipSettings()),
    "set": Entry(SET, SetSettings()),
    "rigl": Entry(RigL, RigLSettings()),
    "acdc": Entry(ACDC, AcdcSettings()),
    "str": Entry(STR, StrSettings()),
    "st3": Entry(ST3, St3Settings()),
    "variational-dropout": Entry(VariationalDropout, VariationalDropoutSettings()),
    "l0": Entry(L0, L0Settings()),
    "l1": Entry(ProximalL1, ProximalSettings()),
    "rda": Entry(RDA, RdaSettings()),
    "linbreg": Entry(LinBreg, BregmanSettings()),
    "adabreg": Entry(AdaBreg, AdaBregSettings()),
}


def penalty_of_form(name: str) -> Penalty | None:
    """Return the penalty with which ``grda`` is this method too; None for what has a name alone."""
    settings = METHODS[name].settings
    return settings.penalty if isinstance(settings, GrdaL0Settings) else None


def create_method(name: str, **changes: Any) -> Method[Any]:
    """Make a method for one run.

    Args:
        name: A key of :data:`METHODS`.
        **changes: Settings that differ from those of the entry.

    Returns:
        A new method, to be started once.

    Raises:
        UsageError: The name is unknown, or a setting is unknown or out of its range.

    Example:
        >>> create_method("rigl", drop=0.5).settings
        RigLSettings(drop=0.5, every=100, end=0.75)
    """
    if name not in METHODS:
        raise UsageError(unknown("method", name, METHODS))
    entry = METHODS[name]
    known = [field.name for field in fields(entry.settings)]
    for setting in changes:
        if setting not in known:
            raise HyperparameterError(unknown(f"setting of {name}", setting, known or ["none"]))
    return entry.method(replace(entry.settings, **changes))
