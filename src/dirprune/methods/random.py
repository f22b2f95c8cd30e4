"""Random pruning: the floor that every score has to beat."""

from torch import Tensor

from dirprune.methods.base import Facts, Search
from dirprune.methods.masked import Gradual


class RandomPruning(Gradual):
    r"""Remove weights at random while training, along the cubic schedule of gradual magnitude pruning.

    .. math:: \text{score}_j \sim U(0, 1), \text{ drawn once}

    Defaults: those of gradual magnitude pruning, each layer at the same sparsity.

    References:
        Gale et al. 2019, "The state of sparsity in deep neural networks", section 3, "Random pruning".
    """

    facts = Facts(
        title="random, gradual",
        paper="Gale et al. 2019, The state of sparsity in deep neural networks, 1902.09574",
        needs_target=True,
        monotone=True,
        search=(Search("begin", 0.0, 0.3, log=False), Search("end", 0.4, 0.9, log=False)),
    )

    def _prepare(self) -> None:
        super()._prepare()
        self._scores = {name: self._drawn(p) for name, p in self.prunable.items()}  # again at a resume

    def score(self) -> dict[str, Tensor]:
        """Return the draws."""
        return self._scores
