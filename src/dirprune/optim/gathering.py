"""The tensors that a step needs, taken again from the step before while nothing has been replaced."""

from collections.abc import Collection, Mapping
from itertools import chain, repeat
from operator import is_, is_not
from typing import Any

from torch import Tensor

from dirprune.optim.tensors import Tensors


class Gathering:
    """What the last step gathered, and by what to know that the next one would gather the same.

    Looks only at which objects are held, not into them; by map and without loops, for a network of many small
    tensors spends its step here. What it holds cannot be freed, so that no other object is taken for it.
    """

    def __init__(self) -> None:
        self._parameters: list[Tensor] = []
        self._values: list[Any] = []  # of all states, laid end to end
        self._groups: dict[int, Tensors] = {}

    def check(self, state: Mapping[Tensor, dict[str, Any]]) -> None:
        """Forget everything, if anything in the optimiser's state has been added, removed or replaced."""
        states = state.values()
        if not (
            _same(state, self._parameters)
            and sum(map(len, states)) == len(self._values)
            and all(map(is_, chain.from_iterable(map(dict.values, states)), self._values))
        ):
            self._groups.clear()

    def take(self, group: dict[str, Any], grads: list[Tensor | None]) -> Tensors | None:
        """Return the last step's tensors with new gradients; None if they would be others.

        The lists are the last step's own, but for the gradients.

        Args:
            group: As in ``param_groups``.
            grads: The gradient of each of its parameters.
        """
        if (found := self._groups.get(id(group))) is None:
            return None
        params: list[Tensor] = group["params"]
        present: list[Tensor] = grads  # type: ignore[assignment]
        if not all(map(is_not, grads, repeat(None))):
            params = [p for p, grad in zip(params, grads, strict=True) if grad is not None]
            present = [grad for grad in grads if grad is not None]
        if (
            not _same(params, found.params)
            or bool(found.buffers) is not (group["momentum"] != 0)
            or bool(found.squares) is not (group["beta2"] != 0)
        ):
            return None
        return Tensors(found.params, present, *found[2:])

    def keep(self, group: dict[str, Any], tensors: Tensors, state: Mapping[Tensor, dict[str, Any]]) -> None:
        """Keep what a step gathered for a group, but for the gradients, whose memory may be wanted back."""
        self._parameters = list(state)
        self._values = list(chain.from_iterable(map(dict.values, state.values())))
        self._groups[id(group)] = tensors._replace(grads=[])


def _same(now: Collection[Any], before: list[Any]) -> bool:
    """Whether two collections hold the same objects, in order."""
    return len(now) == len(before) and all(map(is_, now, before))
