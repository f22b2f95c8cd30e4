"""Magnitude pruning: at once, or gradually."""

from dataclasses import dataclass

from torch import Tensor

from dirprune.core.masks import Distribution, Masks, keep_largest
from dirprune.methods.base import Facts, Search
from dirprune.methods.masked import Gradual, OneShot, OneShotSettings, check_distribution


@dataclass(frozen=True, kw_only=True)
class MagnitudeSettings(OneShotSettings):
    """Settings of :class:`Magnitude`."""

    distribution: Distribution = "global"
    """How the kept weights are shared out among layers."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_distribution(self.distribution)


class Magnitude(OneShot[MagnitudeSettings]):
    r"""Train, remove the weights of smallest magnitude once, fine-tune the rest.

    .. math:: m_j = [\, |w_j| \text{ is among the } k \text{ greatest} \,]

    References:
        Han et al. 2015, "Learning both weights and connections for efficient neural networks", section 3.
    """

    facts = Facts(
        title="magnitude, one-shot",
        paper="Han et al. 2015, Learning both weights and connections, 1506.02626",
        needs_target=True,
        needs_pretrained=True,
        monotone=True,
        search=(Search("prune_at", 0.3, 0.8, log=False),),
    )

    def prune(self) -> Masks:
        """Return the weights of greatest magnitude."""
        return keep_largest(self.magnitudes(), self._kept(self._target), self.settings.distribution)


class GradualMagnitude(Gradual):
    r"""Remove the weights of smallest magnitude while training, along a cubic schedule.

    .. math:: s_t = s_f \bigl(1 - (1 - (t - t_0) / (t_1 - t_0))^3\bigr)

    Defaults: 100 steps between prunings is the paper's lower choice; it asks that pruning begins when the
    network has learnt something and ends while the learning rate is still large, which 10 % and 75 % of the
    run are meant to be (ours).

    References:
        Zhu and Gupta 2017, "To prune, or not to prune", section 3 and equation 1; Gale et al. 2019, "The
        state of sparsity in deep neural networks" (ranking globally or by layer).
    """

    facts = Facts(
        title="magnitude, gradual",
        paper="Zhu and Gupta 2017, To prune, or not to prune, 1710.01878",
        needs_target=True,
        monotone=True,
        search=(Search("begin", 0.0, 0.3, log=False), Search("end", 0.4, 0.9, log=False)),
    )

    def score(self) -> dict[str, Tensor]:
        """Return |w|."""
        return self.magnitudes()
