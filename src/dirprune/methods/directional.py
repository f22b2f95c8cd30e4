"""Directional pruning as the paper defines it: once, from the Hessian of a trained network."""

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dirprune.core.directional import directional_prune
from dirprune.core.dtypes import wide
from dirprune.core.masks import Masks
from dirprune.errors import DataError, DivergenceError, UsageError
from dirprune.methods.base import Facts, Search, Work, require
from dirprune.methods.masked import OneShot, OneShotSettings

_AT_ONCE = 256
_PASSES = 6  # a Hessian product differentiates a gradient, which is three passes, once more


@dataclass(frozen=True, kw_only=True)
class DirectionalSettings(OneShotSettings):
    """Settings of :class:`Directional`."""

    sharp: int = 10
    """k, the number of sharp directions (the paper looks at the top ten)."""
    images: int = 512
    """Training images that the Hessian is of, the first of the run's own order. Ours: the whole set would
    cost more than the training."""
    tolerance: float = 0.05
    """Greatest relative residual of an eigenpair. Ours: the subset is the greater error."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, sharp=(1, None), images=(1, None), tolerance=(1e-9, 0.5))


class Directional(OneShot[DirectionalSettings]):
    r"""Train, push every weight towards zero as far as the loss is flat, remove what arrives; fine-tune.

    .. math:: s_j = \mathrm{sign}(w_j) (P_0 \, \mathrm{sign}(w))_j, \qquad
              v_j = \mathrm{sign}(w_j) \max(|w_j| - \lambda s_j, 0)

    with P_0 = I - U U^T, U the top-k eigenvectors of the Hessian of the training loss in the prunable
    weights, the others held, and lambda the least that leaves the wanted number of weights. The Hessian is
    that of evaluation mode, in float32 or wider.

    References:
        Chao, Wang, Xing, Cheng 2020, "Directional pruning of deep neural networks", Definition 1.1; the
        paper itself leaves it uncomputed, for gRDA comes near it without the Hessian.
    """

    facts = Facts(
        title="directional, one-shot",
        paper="Chao et al. 2020, Directional pruning of deep neural networks, 2006.09358",
        needs_target=True,
        needs_pretrained=True,
        needs_hessian=True,
        monotone=True,
        search=(Search("prune_at", 0.3, 0.8, log=False),),
    )
    _products = 0

    @torch.no_grad()
    def prune(self) -> Masks:
        """Push the weights, and return those that have not arrived at zero."""
        weights = {name: parameter.detach() for name, parameter in self.prunable.items()}
        if not all(weight.isfinite().all() for weight in weights.values()):
            return self.masks  # there is no Hessian; the trainer's next look at the loss ends the run
        total = sum(weight.numel() for weight in weights.values())
        pruned, _ = directional_prune(
            weights, self._directions(), 1 - self._kept(self._target) / total, names=tuple(weights)
        )
        for name, parameter in self.prunable.items():
            parameter.copy_(pruned[name])
        return Masks({name: pruned[name] != 0 for name in self.prunable})

    @torch.enable_grad()
    def _directions(self) -> Tensor:
        """Return the sharp directions, rows [k, d]."""
        from dirprune.landscape.hessian import EigenSettings, NotConvergedError, top_eigenpairs
        from dirprune.landscape.objective import Objective

        dtype = wide(next(iter(self.prunable.values())).dtype)
        network = copy.deepcopy(self.model).to(dtype)
        for name, parameter in network.named_parameters():
            parameter.requires_grad_(name in self.prunable)
        objective = Objective(network, self.plan.loss, self._images(dtype), errors=None)
        settings = EigenSettings(
            k=self.settings.sharp, tolerance=self.settings.tolerance, eigen_seed=self.plan.seed
        )
        try:
            pairs = top_eigenpairs(objective, network.state_dict(), settings)
        except (NotConvergedError, DataError) as error:  # a network that has died, or is about to overflow
            raise DivergenceError(
                f"there are no {self.settings.sharp} sharp directions to prune by ({error}); lower `lr`"
            ) from None
        self._products = pairs.products
        return pairs.vectors

    def _images(self, dtype: torch.dtype) -> list[tuple[Tensor, Tensor]]:
        """Return the first training images; few large batches, for a batch costs milliseconds of its own."""
        wanted, found = self.settings.images, list[tuple[Tensor, Tensor]]()
        for batch in self.plan.batches():
            found.append(batch)
            if sum(len(labels) for _, labels in found) >= wanted:
                break
        if not found:
            raise UsageError("directional pruning needs a training batch; the plan's batches() gave none")
        inputs, labels = (torch.cat(parts)[:wanted] for parts in zip(*found, strict=True))
        at_once = range(0, len(labels), _AT_ONCE)
        return [(inputs[i : i + _AT_ONCE].to(dtype), labels[i : i + _AT_ONCE]) for i in at_once]

    def work(self, step: int) -> Work:
        """Return sparse passes, and at the cut the dense ones of the Hessian products."""
        batch = self.plan.examples / self.plan.steps_per_epoch
        products = self._products * _PASSES * self.settings.images / batch if step == self.cut else 0.0
        return Work(dense=products, sparse=3)

    def state_dict(self) -> dict[str, Any]:
        """Return the number of products too."""
        return {**super().state_dict(), "products": self._products}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the number of products too."""
        super().load_state_dict(state)
        self._products = state["products"]
