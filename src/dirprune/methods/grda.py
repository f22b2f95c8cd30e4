"""gRDA: directional pruning by the optimiser alone."""

from dataclasses import dataclass
from typing import ClassVar

from torch.optim import Optimizer

from dirprune.core.prunable import prunable_groups
from dirprune.core.threshold import RULES, Penalty
from dirprune.errors import HyperparameterError, unknown
from dirprune.methods.base import DENSE_GRADIENT_WORK, Facts, Method, Search, Work, require
from dirprune.optim import GRDA


@dataclass(frozen=True, kw_only=True)
class GrdaSettings:
    """Settings of :class:`Grda`."""

    c: float = 5e-4
    """Scale of the threshold (the paper: 5e-4 to 5e-3)."""
    mu: float = 0.6
    """Exponent of its growth (the paper: 0.4 to 0.7)."""
    penalty: Penalty = "l1"
    """"l1": single weights become zero (the paper); "l0": they do, the others keep their size; "group": whole
    output channels; "rescaled": single weights, and each output channel keeps its l1 norm."""

    def __post_init__(self) -> None:
        require(self, c=(0, None), mu=(1e-6, 1))
        if self.penalty not in RULES:
            raise HyperparameterError(unknown("penalty", self.penalty, RULES))


@dataclass(frozen=True, kw_only=True)
class GrdaL0Settings:
    """Settings of :class:`GrdaL0`."""

    penalty: ClassVar[Penalty] = "l0"
    c: float = 1e-3
    """Scale of the threshold (ours: with mu = 1 it is of another size than the paper's)."""
    mu: float = 1.0
    """Exponent of its growth."""

    def __post_init__(self) -> None:
        require(self, c=(0, None), mu=(1e-6, 1))


@dataclass(frozen=True, kw_only=True)
class GrdaRescaledSettings(GrdaL0Settings):
    """Settings of :class:`GrdaRescaled`."""

    penalty: ClassVar[Penalty] = "rescaled"


class Grda(Method[GrdaSettings | GrdaL0Settings]):
    r"""Generalised regularised dual averaging, by :class:`dirprune.GRDA`.

    .. math:: v_{n+1} = v_n - \gamma \nabla f(w_n), \quad w_{n+1} = S(v_{n+1}, c \gamma^{\mu + 1/2} (n+1)^\mu)

    With the group penalty S acts on whole channels, by :class:`~dirprune.core.threshold.GroupSoftThreshold`;
    with l0 the hard threshold is in its place, :class:`~dirprune.core.threshold.HardThreshold`; rescaled is
    :class:`~dirprune.core.threshold.RescaledSoftThreshold`.

    References:
        Chao, Wang, Xing, Cheng 2020, "Directional pruning of deep neural networks", section 3.
    """

    facts = Facts(
        title="gRDA",
        paper="Chao et al. 2020, Directional pruning of deep neural networks, 2006.09358",
        strength="c",
        # As in the paper, c for a fixed mu. The threshold goes as lr^(mu + 1/2), weights about as lr^(1/2).
        search=(Search("c", 4e-4, 3.5e-2, momentum_power=-1.1, lr_power=-0.6, steps_power=-0.6),),
    )

    def _make_optimizer(self) -> Optimizer:
        plan, settings = self.plan, self.settings
        return GRDA(
            prunable_groups(self.model, plan.include),
            lr=plan.lr,
            c=settings.c,
            mu=settings.mu,
            penalty=settings.penalty,
            momentum=plan.momentum,
            nesterov=plan.nesterov,
            beta2=plan.beta2,
            weight_decay=plan.weight_decay,
        )

    def work(self, step: int) -> Work:  # noqa: ARG002
        """Return the gradient of the weights as dense."""
        return DENSE_GRADIENT_WORK


class GrdaL0(Grda):
    r"""gRDA with the hard threshold, which grows with the sum of the rates, each to the power 3/2.

    .. math:: w_n = H(v_n, \tau_n), \qquad \tau_n = c \sum_{i<n} \gamma_i^{3/2} \quad (\mu = 1)

    What it keeps it does not shrink, so that the threshold may be greater; and a threshold linear in time is
    small while the network learns what is worth keeping. Where the rate falls to zero it stops growing, and
    the weights that are left settle. Not the paper's: its theorem wants the soft threshold and mu < 1.

    References:
        Chao et al. 2020, section 3; the hard threshold: Donoho and Johnstone 1994, "Ideal spatial adaptation
        by wavelet shrinkage", Biometrika 81.
    """

    facts = Facts(
        title="gRDA, l0",
        paper="after Chao et al. 2020; hard threshold: Donoho and Johnstone 1994",
        strength="c",
        # As above, mu = 1.
        search=(Search("c", 7e-5, 2e-3, momentum_power=-1.5, lr_power=-1, steps_power=-1),),
    )


class GrdaRescaled(Grda):
    r"""gRDA that gives each output channel its l1 norm back; the threshold grows as that of grda-l0.

    .. math:: w_n = a \odot S(v_n, \tau_n), \qquad \tau_n = c \sum_{i<n} \gamma_i^{3/2} \quad (\mu = 1)

    with a the factors of ST-3, which sets tau by a wanted sparsity where here it grows with the rates.

    References:
        Chao et al. 2020, section 3; Vanderschueren and De Vleeschouwer 2023, "Are straight-through gradients
        and soft-thresholding all you need for sparse training?", section 3.
    """

    facts = Facts(
        title="gRDA, rescaled",
        paper="after Chao et al. 2020, and Vanderschueren and De Vleeschouwer 2023, ST-3, 2212.01076",
        strength="c",
        search=GrdaL0.facts.search,
    )
