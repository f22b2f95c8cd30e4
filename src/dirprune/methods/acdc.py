"""AC/DC: compressed and dense phases by turns."""

from dataclasses import dataclass
from itertools import pairwise

from dirprune.core.masks import Distribution, all_kept, keep_largest
from dirprune.errors import HyperparameterError
from dirprune.methods.base import Facts, Search, require
from dirprune.methods.masked import Masked, check_distribution


@dataclass(frozen=True, kw_only=True)
class AcdcSettings:
    """Settings of :class:`ACDC`, as fractions of training; the defaults are the paper's ImageNet runs."""

    warm_up: float = 0.1
    """Dense training before the first compression."""
    phase: float = 0.05
    """Length of a compressed and of a dense phase."""
    last_dense: float = 0.1
    """Length of the last dense phase."""
    last_compressed: float = 0.15
    """Length of the last compressed phase, the fine-tuning of what is kept."""
    distribution: Distribution = "global"
    """How the kept weights are shared out among layers."""

    def __post_init__(self) -> None:
        check_distribution(self.distribution)
        require(self, warm_up=(0, 1), phase=(0.001, 1), last_dense=(0, 1), last_compressed=(0.001, 1))
        if self.warm_up + self.last_dense + self.last_compressed > 1 + 1e-9:
            raise HyperparameterError(
                "warm_up, last_dense and last_compressed are fractions of training and sum to at most 1, "
                f"got {self.warm_up} + {self.last_dense} + {self.last_compressed}"
            )

    def phases(self) -> list[tuple[float, float, bool]]:
        """Return (begin, end, compressed) of every phase; one that would reach the last dense one is cut.

        Example:
            >>> [p for p in AcdcSettings().phases() if p[0] >= 0.65]
            [(0.65, 0.7, False), (0.7, 0.75, True), (0.75, 0.85, False), (0.85, 1.0, True)]
        """
        last = round(1 - self.last_compressed, 9)
        stop = round(last - self.last_dense, 9)
        begins = [self.warm_up]
        while round(begins[-1] + self.phase, 9) < stop:
            begins.append(round(begins[-1] + self.phase, 9))
        turns = [(begin, end, i % 2 == 0) for i, (begin, end) in enumerate(pairwise([*begins, stop]))]
        return [(0.0, self.warm_up, False), *turns, (stop, last, False), (last, 1.0, True)]


class ACDC(Masked[AcdcSettings]):
    r"""Alternate between training the k greatest weights only and training all of them; end compressed.

    .. math:: \text{compressed: } w \leftarrow T_k(w), \; w \leftarrow w - \gamma m \odot \nabla f(w), \quad
              \text{dense: } w \leftarrow w - \gamma \nabla f(w)

    with T_k the k greatest magnitudes of the whole network and m their mask, fixed within a phase. A weight
    that comes back starts at zero, without momentum; the others keep theirs (ours: the authors' ImageNet runs
    reset all momentum when a dense phase begins).

    References:
        Peste et al. 2021, "AC/DC: alternating compressed/decompressed training of deep neural networks",
        algorithm 1; phases of the ResNet50 runs from the published configuration (compressed from epochs 10,
        20, ..., 70 and 85, dense from 15, 25, ..., 65 and 75, of 100).
    """

    facts = Facts(
        title="AC/DC",
        paper="Peste et al. 2021, AC/DC, 2106.12379",
        needs_target=True,
        search=(Search("phase", 0.02, 0.1), Search("last_compressed", 0.1, 0.3, log=False)),
    )

    def after_step(self, step: int) -> None:
        """Begin another phase if it is time."""
        for begin, _, compressed in self.settings.phases():
            if step == max(1, self.plan.steps(begin)):
                keep = self._kept(self._target)
                self.masks = (
                    keep_largest(self.magnitudes(), keep, self.settings.distribution)
                    if compressed
                    else all_kept(self.prunable)
                )
        self.apply()
