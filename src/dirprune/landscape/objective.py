"""The loss as a function of the weights: a network, its loss function, and data that stay the same."""

import copy
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from dirprune.errors import DataError, UsageError
from dirprune.landscape.batchnorm import (
    has_statistics,
    normalises,
    reestimate,
    statistics_of,
    two_or_more,
)
from dirprune.landscape.identity import description, digest, held_tensors, setting_of

Data = Iterable[tuple[Tensor, Tensor]]
Loss = Callable[[Tensor, Tensor], Tensor]
State = Mapping[str, Tensor]

_INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


@dataclass(frozen=True)
class Measured:
    """Mean loss (nats for cross-entropy), and the fraction of samples that are wrong (None if not asked)."""

    loss: float
    error: float | None


@dataclass(frozen=True)
class Point:
    """What was measured at some weights, on the training data and, where there are some, the test data."""

    train: Measured
    test: Measured | None


def wrong_classes(outputs: Tensor, targets: Tensor) -> Tensor:
    """Count the samples whose greatest output is not that of their class.

    Args:
        outputs: Logits [b, classes], of two classes or more.
        targets: Integers [b].

    Raises:
        UsageError: They are of other shapes or dtypes, as where a network does not classify.

    Example:
        >>> wrong_classes(torch.eye(3), torch.tensor([0, 1, 1])).item()
        1
    """
    fits = outputs.ndim == 2 and outputs.shape[1] > 1 and targets.shape == outputs.shape[:1]
    if not fits or targets.dtype not in _INTEGERS:
        raise UsageError(
            "wrong samples are counted for outputs [b, classes] and integer targets [b], not for outputs "
            f"{tuple(outputs.shape)} and targets {tuple(targets.shape)} of {targets.dtype}: pass errors=None"
        )
    return (outputs.argmax(dim=1) != targets).sum()


class Objective:
    r"""The mean loss over a data set as a function of the weights.

    .. math:: L(w) = \frac{1}{N} \sum_{i=1}^{N} \ell(f_w(x_i), y_i)

    Works on a private copy of the network: the caller's model - parameters, buffers, modes, gradients - is
    never touched, not even for a moment. "The weights" are its parameters with ``requires_grad``, as one
    vector in the order of ``named_parameters()``.

    Args:
        model: Any module that takes the inputs of a batch and returns outputs.
        loss: Mean loss of a batch, from (outputs, targets).
        train: Training data: batches (inputs, targets) that can be iterated over again and again, the same
            every time: no shuffling, no augmentation; for BatchNorm, in mixed order.
        test: Test data, likewise.
        errors: Number of wrong samples from (outputs, targets); None for tasks that know no wrong and right.

    Raises:
        UsageError: Nothing in the model is trainable, the loss is not a mean over samples, or data can be
            read only once.

    Example:
        >>> data = [(torch.ones(2, 1), torch.zeros(2, 1))]
        >>> objective = Objective(nn.Linear(1, 1, bias=False), nn.MSELoss(), data, errors=None)
        >>> objective.measure({"weight": torch.tensor([[3.0]])}).train.loss
        9.0
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        train: Data,
        test: Data | None = None,
        *,
        errors: Loss | None = wrong_classes,
    ) -> None:
        reduction = setting_of(loss, "reduction")
        if reduction not in (None, "mean", "batchmean"):
            raise UsageError(f"the loss must be a mean over the batch; its reduction is {reduction!r}")
        self._ignored = setting_of(loss, "ignore_index")
        # Those that can ignore a class divide by the weights of the batch, others by its size.
        if self._ignored is not None and setting_of(loss, "weight") is not None:
            raise UsageError("the loss weighs classes: its mean over a batch is none over samples")
        for name, data in (("train", train), ("test", test)):
            if isinstance(data, Iterator):
                raise UsageError(
                    f"{name} data must be iterable many times, such as a list or a DataLoader; "
                    f"a {type(data).__name__} is used up after one pass"
                )
        self.loss = loss
        self._described_as = {
            "loss": description(loss) + held_tensors(loss),
            "module": hashlib.sha256(description(model).encode()).hexdigest()[:16],
        }
        self._errors = errors
        self._data = {"train": train, "test": test}
        self._module = copy.deepcopy(model)
        self._module.zero_grad(set_to_none=True)
        trainable = {name: p for name, p in self._module.named_parameters() if p.requires_grad}
        if not trainable:
            raise UsageError(
                f"{type(model).__name__} has no parameter with requires_grad: nothing to look at"
            )
        if len({(p.device, p.dtype) for p in trainable.values()}) > 1:
            raise UsageError(f"the parameters of {type(model).__name__} must share one device and one dtype")
        self.shapes = {name: p.shape for name, p in trainable.items()}
        first = next(iter(trainable.values()))
        self.device, self.dtype = first.device, first.dtype

    @property
    def numel(self) -> int:
        """Number of weights d."""
        return sum(shape.numel() for shape in self.shapes.values())

    @property
    def cuda(self) -> list[torch.device]:
        """The device if it has a generator of random numbers of its own."""
        return [self.device] if self.device.type == "cuda" else []

    # -- weights as a vector ---------------------------------------------------------------------------

    def vector(self, state: State | None = None) -> Tensor:
        """Return the weights of a state dict (by default the model's own) as one vector, a copy.

        Raises:
            UsageError: A weight is missing or has another shape.
        """
        state = self._module.state_dict() if state is None else state
        for name, shape in self.shapes.items():
            if name not in state:
                raise UsageError(f"the state dict has no {name}: it is of another network")
            if state[name].shape != shape:
                raise UsageError(
                    f"{name} must have shape {tuple(shape)}, not {tuple(state[name].shape)}: "
                    "the state dict is of another network"
                )
        parts = [state[name].detach().reshape(-1) for name in self.shapes]
        return torch.cat(parts).to(device=self.device, dtype=self.dtype)

    def weights(self, vector: Tensor) -> dict[str, Tensor]:
        """Return a vector [d] as named tensors, views of it."""
        sizes = [shape.numel() for shape in self.shapes.values()]
        parts = vector.split_with_sizes(sizes)
        return {name: part.view(self.shapes[name]) for name, part in zip(self.shapes, parts, strict=True)}

    def module_at(self, state: State) -> nn.Module:
        """Return a copy of the network with these weights and buffers, in evaluation mode.

        Raises:
            UsageError: The state dict does not fit the network.
        """
        self.vector(state)
        module = copy.deepcopy(self._module)
        try:
            module.load_state_dict(state, strict=False)
        except RuntimeError as error:
            raise UsageError(
                f"the state dict does not fit the network: {str(error).splitlines()[-1].strip()}"
            ) from None
        return module.eval()

    # -- what is measured ------------------------------------------------------------------------------

    def measure(self, state: State) -> Point:
        """Measure loss and error in evaluation mode, with BatchNorm statistics that belong to the weights.

        Args:
            state: Named weights and buffers; what is missing is as in the model.

        Raises:
            DataError: As :meth:`batches`.
            UsageError: As :func:`wrong_classes`, where that counts the errors.
        """
        state = self.with_statistics(state)
        self._module.eval()
        return Point(
            self._measured(state, "train"),
            self._measured(state, "test") if self._data["test"] is not None else None,
        )

    def with_statistics(self, state: State) -> dict[str, Tensor]:
        """Return weights and buffers as they are measured: BatchNorm statistics are those of the weights."""
        held = self._held(state)
        return {**held, **reestimate(self._module, held, self.batches("train"))}

    def training_loss(self, state: State, inputs: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of one batch on the model's device in training mode, for autograd.

        No buffer changes.
        """
        self._module.train()
        outputs = functional_call(self._module, self._held(state), (inputs,))
        return self.loss(outputs, targets)

    def _held(self, state: State) -> dict[str, Tensor]:
        """Return weights and copies of buffers of a state, on the device and in the dtypes of the model."""
        weights = {
            name: state[name].to(own) for name, own in self._module.named_parameters() if name in state
        }
        buffers = {
            name: state.get(name, own).detach().to(own, copy=True)
            for name, own in self._module.named_buffers()
        }
        return {**weights, **buffers}

    def batches(self, split: str) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the batches of a split on the device of the model.

        Raises:
            DataError: A batch is no pair of tensors, a target is one that the loss ignores, or there is none.
        """
        data = self._data[split]
        assert data is not None
        return self.on_device(data, split)

    def on_device(self, data: Data, name: str) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield batches on the device of the model.

        Raises:
            DataError: A batch is no pair of tensors, a target is one that the loss ignores, or there is none.
        """
        ignored, samples = self._ignored, 0
        for batch in data:
            parts = batch if isinstance(batch, tuple | list) else ()
            if [isinstance(part, Tensor) for part in parts] != [True, True]:
                raise DataError(
                    f"a batch of the {name} data must be two tensors, inputs and targets; it is "
                    f"{_kind(batch)}: give the network a module around it that takes one tensor"
                )
            inputs, targets = batch
            if ignored is not None and not targets.is_floating_point() and (targets == ignored).any():
                raise DataError(
                    f"a target of the {name} data is {ignored}, which the loss ignores (ignore_index): "
                    "its mean over a batch is none over samples"
                )
            samples += len(targets)
            yield inputs.to(self.device), targets.to(self.device)
        if samples == 0:
            raise DataError(f"the {name} data are empty")

    def to_train_on(self, batches: Iterable[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield batches as the network can train on them: with BatchNorm none is a single sample."""
        return two_or_more(batches) if normalises(self._module) else iter(batches)

    # -- evidence --------------------------------------------------------------------------------------

    @cached_property
    def data(self) -> dict[str, dict[str, int | str]]:
        """Samples and SHA-256 (16 digits) of each split, read twice.

        Raises:
            DataError: Two passes differ, or there is nothing in them.
        """
        return {name: self._described(name) for name, data in self._data.items() if data is not None}

    def identity(self, **states: State) -> dict[str, Any]:
        """Return what tells this objective and some networks from others, for the record of a result.

        Raises:
            UsageError: A state dict does not fit, or tensors that are not trained differ: parameters from
                those of the model, floating-point buffers, but for BatchNorm's, between the networks.
            DataError: The data differ between two passes.
        """
        self._check_fixed_parameters(list(states.values()))
        self._check_fixed_buffers(states)
        return {
            **{name: self.digest(state) for name, state in states.items()},
            **self._described_as,
            "weights": self.numel,
            "batchnorm_reestimated": has_statistics(self._module),
            "data": self.data,
        }

    def digest(self, state: State) -> str:
        """Return a short hash of the weights and buffers of a state dict."""
        buffers = [state[name] for name, _ in self._module.named_buffers() if name in state]
        return digest([self.vector(state), *buffers])[1]

    def _check_fixed_parameters(self, states: list[State]) -> None:
        """Refuse networks that differ in what is not trained, for a curve would not end in them."""
        for name, parameter in self._module.named_parameters():
            if name not in self.shapes:
                for state in states:
                    if name in state and not torch.equal(state[name].to(parameter), parameter):
                        raise UsageError(f"{name} does not require grad, but differs from that of the model")

    def _check_fixed_buffers(self, states: Mapping[str, State]) -> None:
        """Refuse networks that differ in buffers which nothing between them could have."""
        moving = statistics_of(self._module)
        for name, buffer in self._module.named_buffers():
            if name not in moving and buffer.is_floating_point():
                held = [(label, state[name].to(buffer)) for label, state in states.items() if name in state]
                for label, other in held[1:]:
                    if not torch.equal(other, held[0][1]):
                        raise UsageError(
                            f"the buffer {name} of the networks {held[0][0]} and {label} differs: "
                            "it belongs to no weights between them"
                        )

    def _described(self, split: str) -> dict[str, int | str]:
        passes = [digest(tensor for batch in self.batches(split) for tensor in batch) for _ in range(2)]
        if passes[0] != passes[1]:
            raise DataError(
                f"two passes over the {split} data differ: give the same samples in the same order "
                "every time (shuffle=False, no augmentation)"
            )
        samples = sum(len(targets) for _, targets in self.batches(split))
        return {"samples": samples, "sha256": passes[0][1]}

    @torch.no_grad()
    def _measured(self, state: State, split: str) -> Measured:
        loss = wrong = samples = 0.0
        for inputs, targets in self.batches(split):
            outputs = functional_call(self._module, dict(state), (inputs,))
            loss += self.loss(outputs, targets).item() * len(targets)
            wrong += self._errors(outputs, targets).item() if self._errors else 0
            samples += len(targets)
        return Measured(loss / samples, wrong / samples if self._errors else None)


def _kind(value: Any) -> str:
    """Say of what type a batch is, and its parts."""
    name = type(value).__name__
    return f"{name}({', '.join(map(_kind, value))})" if isinstance(value, tuple | list) else name
