"""The tensors that a step needs, taken again from the step before while nothing has been replaced."""

from collections.abc import Collection, Iterable, Mapping
from itertools import repeat
from operator import is_, is_not
from typing import Any

from torch import Tensor

from dirprune.optim.tensors import Tensors

# Keys of a parameter's state, in the order of Tensors.
_KEYS = ("accumulator", "momentum_buffer", "step", "threshold")


class Gathering:
    """What the last step gathered, and by what to know that the next one would gather the same.

    Looks only at which objects are held, not into them; by map and without loops, for a network of many small
    tensors spends its step here. What it holds cannot be freed, so that no other object is taken for it.
    """

    def __init__(self) -> None:
        self._parameters: list[Tensor] = []
        self._states: list[dict[str, Any]] = []
        self._groups: dict[int, tuple[Tensors, list[dict[str, Any]]]] = {}

    def check(self, state: Mapping[Tensor, dict[str, Any]]) -> None:
        """Forget everything, if the optimiser's state has other parameters or dictionaries than it had."""
        if not (_same(state, self._parameters) and _same(state.values(), self._states)):
            self._groups.clear()

    def take(self, group: dict[str, Any], grads: Iterable[Tensor | None]) -> Tensors | None:
        """Return the last step's tensors with new gradients; None if any other has been replaced.

        The lists are the last step's own, but for the gradients.

        Args:
            group: As in ``param_groups``.
            grads: The gradient of each of its parameters.
        """
        if (found := self._groups.get(id(group))) is None:
            return None
        tensors, states = found
        params, present = group["params"], list(grads)
        if not all(map(is_not, present, repeat(None))):
            params = [p for p, grad in zip(params, present, strict=True) if grad is not None]
        held = (tensors.accumulators, tensors.buffers, tensors.steps, tensors.thresholds)
        if (
            not _same(params, tensors.params)
            or bool(tensors.buffers) is not (group["momentum"] != 0)
            or not all(
                all(map(is_, map(dict.get, states, repeat(key)), values))
                for key, values in zip(_KEYS, held, strict=True)
            )
        ):
            return None
        return tensors._replace(grads=[grad for grad in present if grad is not None])

    def keep(self, group: dict[str, Any], tensors: Tensors, state: Mapping[Tensor, dict[str, Any]]) -> None:
        """Keep what a step gathered for a group, but for the gradients, whose memory may be wanted back."""
        self._parameters, self._states = list(state), list(state.values())
        self._groups[id(group)] = (tensors._replace(grads=[]), [state[p] for p in tensors.params])


def _same(now: Collection[Any], before: list[Any]) -> bool:
    """Whether two collections hold the same objects, in order."""
    return len(now) == len(before) and all(map(is_, now, before))
