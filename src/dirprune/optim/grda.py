"""GRDA, the optimiser: one readable update, and the same update over lists of tensors."""

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim.optimizer import Optimizer, ParamsT, StateDict, _use_grad_for_differentiable

from dirprune.core.sparsity import count_zeros
from dirprune.core.threshold import SoftThreshold, ThresholdRule, threshold_increment
from dirprune.errors import HyperparameterError, LostShadowWarning, UsageError

# Above this fraction of zeros in the weight matrices a network is taken for one that was made sparse.
_ALREADY_SPARSE = 0.1

_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


class GRDA(Optimizer):
    r"""Generalised regularised dual averaging: SGD that ends in a sparse network.

    .. math::
        \begin{aligned}
        d_n &= \nabla f(w_n) + \lambda w_n, \qquad m_{n+1} = \beta m_n + d_n \\
        v_{n+1} &= v_n - \gamma_n m_{n+1} \quad (\text{Nesterov: } d_n + \beta m_{n+1}) \\
        \tau_{n+1} &= \tau_n + c \, \gamma_n^{\mu + 1/2} \bigl((n+1)^{\mu} - n^{\mu}\bigr) \\
        w_{n+1} &= \mathrm{sign}(v_{n+1}) \max(|v_{n+1}| - \tau_{n+1}, 0)
        \end{aligned}

    with v_0 = w_0 and tau_0 = 0. The gradient is taken at the sparse weight w, never at the accumulator v,
    and a weight at zero comes back when its accumulator outgrows the threshold. No target sparsity is
    given: ``mu`` rules it (greater is sparser), ``c`` matters early. With ``c=0`` this is
    :class:`torch.optim.SGD` to the bit.

    Differs from the paper in allowing momentum and weight decay (both off by default), formed as
    ``torch.optim.SGD`` forms them. Works best at the constant learning rate that suits SGD without
    momentum, or with one drop late in training.

    Args:
        params: Parameters, named parameters, or parameter groups, each with its own options if wanted;
            :func:`dirprune.prunable_groups` makes groups that keep biases and normalisation dense.
            float16, bfloat16, float32 or float64; the first two keep their dtype and have a float32
            accumulator.
        lr: Learning rate gamma, >= 0; a float or a tensor with one element.
        c: Scale of the threshold, >= 0. The paper uses 5e-4 to 5e-3.
        mu: Exponent of the threshold's growth, 0 < mu <= 1. The paper uses 0.4 to 0.7.
        momentum: beta, >= 0.
        nesterov: Nesterov's form of the momentum.
        weight_decay: lambda, the l2 penalty, >= 0.
        foreach: Update lists of tensors at once (faster on a GPU, needs temporaries of the size of the
            parameters). ``None`` chooses: lists on accelerators, one by one on the CPU.
        maximize: Ascend instead of descending.
        capturable: Keep ``step`` and ``threshold`` on the parameter's device and never read them on the
            host, as CUDA graphs need. Otherwise they live on the CPU and no step waits for the device.
        differentiable: Let autograd pass through the step.

    State of each parameter: ``accumulator`` (shape of the parameter; float32 or wider), ``step`` and
    ``threshold`` (0-dim float64), ``momentum_buffer`` where momentum is used. The accumulator cannot be
    rebuilt from the weights: to go on training, restore the optimiser's ``state_dict`` too. Writing to
    the parameters from outside has no lasting effect, for the next step takes them from the accumulator.

    Raises:
        HyperparameterError: An option is outside its range (also a ``ValueError``).

    Example:
        >>> model = torch.nn.Linear(4, 1)
        >>> optimizer = GRDA(model.parameters(), lr=0.1, c=5e-4, mu=0.6)
        >>> model(torch.ones(2, 4)).sum().backward()
        >>> optimizer.step()
        >>> optimizer.state[model.weight]["threshold"].dtype
        torch.float64

    References:
        Chao, Wang, Xing, Cheng 2020, "Directional Pruning of Deep Neural Networks", NeurIPS, section 3.
    """

    threshold_rule: ClassVar[ThresholdRule] = SoftThreshold()

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor,
        c: float = 5e-4,
        mu: float = 0.6,
        *,
        momentum: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
    ) -> None:
        defaults: dict[str, Any] = {
            "lr": lr,
            "c": c,
            "mu": mu,
            "momentum": momentum,
            "nesterov": nesterov,
            "weight_decay": weight_decay,
            "foreach": foreach,
            "maximize": maximize,
            "capturable": capturable,
            "differentiable": differentiable,
        }
        _check_options(defaults)
        self._unchecked: set[Tensor] = set()  # parameters whose first real step has not come yet
        self._warned = False  # of a lost shadow
        super().__init__(params, defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group of parameters; options that it does not name take the constructor's values."""
        super().add_param_group(param_group)
        try:
            _check_options(self.param_groups[-1])
            _check_dtypes(self.param_groups[-1]["params"])
        except UsageError:
            self.param_groups.pop()
            raise

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take over groups and state, with their right dtypes and a default for options that are missing."""
        super().__setstate__(state)
        self._unchecked = set()  # a state that was restored has its shadow
        self._warned = False
        for group in self.param_groups:
            for option, value in self.defaults.items():
                group.setdefault(option, value)
            for parameter in group["params"]:
                held = self.state.get(parameter, {})
                for key, value in held.items():
                    held[key] = _typed_state(key, value, parameter, group["capturable"])

    def load_state_dict(self, state_dict: StateDict) -> None:
        """Restore the state exactly, whatever the dtype of the parameters.

        torch casts what it loads to the parameter's dtype, which would round the float32 accumulator and
        the float64 threshold of a bfloat16 parameter. Here each keeps its own dtype.

        Args:
            state_dict: What ``state_dict()`` returned. Its tensors are copied, not shared.

        Raises:
            UsageError: The state is another optimiser's, or of parameters of other shapes.
        """
        handle = self.register_load_state_dict_pre_hook(_check_and_shield)  # after the user's own hooks
        try:
            super().load_state_dict(state_dict)
        finally:
            handle.remove()

    @_use_grad_for_differentiable
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step.

        Args:
            closure: Evaluates the model again and returns the loss; optional.

        Returns:
            What the closure returned, or None.

        Raises:
            RuntimeError: A gradient is sparse.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()

        _refuse_sparse_gradients(self.param_groups)
        for group in self.param_groups:
            params: list[Tensor] = []
            grads: list[Tensor] = []
            accumulators: list[Tensor] = []
            buffers: list[Tensor] = []
            steps: list[Tensor] = []
            thresholds: list[Tensor] = []
            self._init_group(group, params, grads, accumulators, buffers, steps, thresholds)
            # The update is elementwise: of a sharded tensor each rank updates its own part.
            grads = [_placed_like(p, grad) for p, grad in zip(params, grads, strict=True)]
            params, grads, accumulators, buffers = (
                [_local(tensor) for tensor in tensors] for tensors in (params, grads, accumulators, buffers)
            )
            update = _update_foreach if _use_foreach(group, params) else _update_one_by_one
            update(group, self.threshold_rule, params, grads, accumulators, buffers, steps, thresholds)
        return loss

    def _init_group(  # torch.compile knows this name and runs it outside the graph
        self,
        group: dict[str, Any],
        params: list[Tensor],
        grads: list[Tensor],
        accumulators: list[Tensor],
        buffers: list[Tensor],
        steps: list[Tensor],
        thresholds: list[Tensor],
    ) -> None:
        """Append the group's tensors that have a gradient to the lists, making state where there is none."""
        for parameter in group["params"]:
            if parameter.grad is None:
                continue
            state = self.state[parameter]
            if not state:
                device = parameter.device if group["capturable"] else "cpu"
                state["step"] = torch.zeros((), dtype=torch.float64, device=device)
                state["threshold"] = torch.zeros((), dtype=torch.float64, device=device)
                state["accumulator"] = _widened(parameter).clone(memory_format=torch.preserve_format)
                self._unchecked.add(parameter)
            if group["momentum"] != 0 and "momentum_buffer" not in state:
                state["momentum_buffer"] = torch.zeros_like(state["accumulator"])
            params.append(parameter)
            grads.append(parameter.grad)
            accumulators.append(state["accumulator"])
            if group["momentum"] != 0:
                buffers.append(state["momentum_buffer"])
            steps.append(state["step"])
            thresholds.append(state["threshold"])
        if self._unchecked:
            self._warn_of_lost_shadow(group)

    def _warn_of_lost_shadow(self, group: dict[str, Any]) -> None:
        """Warn, once, if this group starts its first real step on weights that are already sparse."""
        fresh = [p for p in group["params"] if p in self._unchecked]
        if not fresh or group["c"] == 0 or _is_zero_on_host(group["lr"]):  # nothing is thresholded yet
            return
        self._unchecked.difference_update(fresh)
        matrices = [_local(p).flatten(1) for p in fresh if p.ndim >= 2]
        zeros = count_zeros(matrices)
        # A row of zeros only was initialised so: padding of an embedding, a last layer that starts at zero.
        rows_of_zeros = count_zeros((matrix != 0).any(dim=1) for matrix in matrices)
        zero = total = 0
        for matrix, z, r in zip(matrices, zeros, rows_of_zeros, strict=True):
            zero += z - r * matrix.shape[1]
            total += matrix.numel() - r * matrix.shape[1]
        if zero > _ALREADY_SPARSE * total and not self._warned:
            self._warned = True
            warnings.warn(
                f"a new GRDA starts on weights that are already sparse ({100 * zero / total:.0f} % zeros): "
                "the accumulator (the memory of each zero weight) and the threshold are lost and begin anew, "
                "so this is not a resume. Load the optimizer's state_dict to resume exactly.",
                LostShadowWarning,
                stacklevel=6,  # the caller of step, beyond this function, _init_group and two wrappers
            )


def _check_options(options: dict[str, Any]) -> None:
    """Raise HyperparameterError for the first option outside its range."""
    lr = options["lr"]
    if isinstance(lr, Tensor) and lr.numel() != 1:
        raise HyperparameterError(f"lr as a tensor must have one element, got shape {tuple(lr.shape)}")
    for name in ("lr", "c", "momentum", "weight_decay"):
        if not 0 <= (value := _number(name, options[name])) < math.inf:
            raise HyperparameterError(f"{name} must be a finite number >= 0, got {value}")
    if not 0 < _number("mu", options["mu"]) <= 1:
        raise HyperparameterError(f"mu must be in (0, 1], got {options['mu']}")
    if options["nesterov"] and options["momentum"] == 0:
        raise HyperparameterError("nesterov needs momentum > 0, got momentum=0")
    if options["foreach"] and options["differentiable"]:
        raise HyperparameterError("foreach and differentiable cannot both be True: pass foreach=False")


def _number(name: str, value: Any) -> float:
    """Return an option as a float, or raise HyperparameterError."""
    try:
        return _host_float(value)
    except (TypeError, ValueError):
        raise HyperparameterError(f"{name} must be a number, got {value!r}") from None


def _check_dtypes(params: list[Tensor]) -> None:
    """Raise UsageError for the first parameter whose dtype has no accumulator."""
    for parameter in params:
        if parameter.dtype not in _DTYPES:
            names = ", ".join(str(dtype).removeprefix("torch.") for dtype in _DTYPES)
            raise UsageError(f"GRDA needs parameters of {names}, got one of {parameter.dtype}")


def _refuse_sparse_gradients(groups: list[dict[str, Any]]) -> None:
    """Raise, before anything has changed, if any gradient is sparse."""
    for group in groups:
        for parameter in group["params"]:
            if parameter.grad is not None and parameter.grad.layout != torch.strided:
                raise RuntimeError(
                    "GRDA does not support sparse gradients: every weight decays with the threshold at every "
                    "step; use a dense gradient (sparse=False in nn.Embedding)"
                )


def _host_float(value: Any) -> float:
    """Return a number or a tensor with one element as a float."""
    return float(value.detach() if isinstance(value, Tensor) else value)


def _is_zero_on_host(lr: float | Tensor) -> bool:
    """Whether a learning rate is 0; a tensor on a device is taken for positive, not waited for."""
    return not (isinstance(lr, Tensor) and lr.device.type != "cpu") and _host_float(lr) == 0


def _wide_dtype(parameter: Tensor) -> torch.dtype:
    """Dtype of a parameter's accumulator: its own, but at least float32."""
    return torch.promote_types(parameter.dtype, torch.float32)


def _widened(parameter: Tensor) -> Tensor:
    """Return the parameter in the dtype of its accumulator; itself where that is its own."""
    return parameter.to(_wide_dtype(parameter))


def _local(tensor: Tensor) -> Tensor:
    """Return this rank's part of a sharded tensor, and any other as it is."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _placed_like(parameter: Tensor, grad: Tensor) -> Tensor:
    """Return a gradient sharded as its parameter is: tensor parallelism leaves some as unfinished sums."""
    if (
        isinstance(parameter, DTensor)
        and isinstance(grad, DTensor)
        and grad.placements != parameter.placements
    ):
        return grad.redistribute(placements=parameter.placements)
    return grad


@dataclass(frozen=True)
class _Shielded:
    """A state tensor that torch's load_state_dict passes on without casting it."""

    tensor: Tensor


_REQUIRED_STATE = ("accumulator", "step", "threshold")


def _check_and_shield(optimizer: Optimizer, state_dict: StateDict) -> StateDict:
    """Check a state to be loaded against the parameters, and shield its tensors from torch's cast."""
    saved_ids = [index for group in state_dict["param_groups"] for index in group["params"]]
    parameters = (parameter for group in optimizer.param_groups for parameter in group["params"])
    for index, parameter in zip(saved_ids, parameters, strict=False):  # torch checks the number
        held = state_dict["state"].get(index)
        if not held:
            continue
        missing = [key for key in _REQUIRED_STATE if key not in held]
        if missing:
            raise UsageError(
                f"the state of parameter {index} lacks {', '.join(missing)}: it was not saved by GRDA; "
                "load a GRDA state_dict, or start a new GRDA without one"
            )
        if held["accumulator"].shape != parameter.shape:
            raise UsageError(
                f"the accumulator of parameter {index} has shape {tuple(held['accumulator'].shape)}, "
                f"the parameter {tuple(parameter.shape)}: the state belongs to another model"
            )
    known = set(saved_ids)
    shielded = {
        index: {key: _Shielded(value) if isinstance(value, Tensor) else value for key, value in held.items()}
        for index, held in state_dict["state"].items()
        if index in known
    }
    return {**state_dict, "state": {**state_dict["state"], **shielded}}


def _typed_state(key: str, value: Any, parameter: Tensor, capturable: bool) -> Any:
    """Return a piece of state in its own dtype and on its own device; a copy where it was just loaded."""
    loaded = isinstance(value, _Shielded)
    if loaded:
        value = value.tensor
    if key in ("step", "threshold"):
        device = parameter.device if capturable else "cpu"
        return torch.as_tensor(value).to(device=device, dtype=torch.float64, copy=loaded)
    if isinstance(value, Tensor):
        return value.to(device=parameter.device, dtype=_wide_dtype(parameter), copy=loaded)
    return value


def _use_foreach(group: dict[str, Any], params: list[Tensor]) -> bool:
    """Whether to update lists of tensors: as asked, else on accelerators where nothing speaks against it."""
    if group["foreach"] is not None:
        return bool(group["foreach"])
    return not group["differentiable"] and all(
        p.device.type != "cpu" and type(p) in (Tensor, torch.nn.Parameter) for p in params
    )


def _stays_on_device(group: dict[str, Any]) -> bool:
    """Whether the scalars of the update must remain tensors."""
    return bool(group["capturable"] or group["differentiable"] or torch.compiler.is_compiling())


def _rate(group: dict[str, Any]) -> float | Tensor:
    """Return the learning rate: a float, or a 0-dim tensor where the scalars remain tensors."""
    lr: float | Tensor = group["lr"]
    if not _stays_on_device(group):
        return _host_float(lr)
    if isinstance(lr, Tensor):
        return lr.reshape(())
    # A float enters a compiled graph once, by a product: used twice, inductor may keep an old value.
    return torch.ones((), dtype=torch.float64, device="cpu") * lr


def _kept(group: dict[str, Any], tensor: Tensor) -> Tensor:
    """Return the tensor; a copy where autograd keeps it, for the next step changes it in place."""
    return tensor.clone() if group["differentiable"] else tensor


def _advance(group: dict[str, Any], lr: float | Tensor, step: Tensor, threshold: Tensor) -> float | Tensor:
    """Count one step and let the threshold grow; returns the new threshold."""
    c, mu = float(group["c"]), float(group["mu"])  # a NumPy float32 would drag the sum down to float32
    if _stays_on_device(group):
        threshold.add_(threshold_increment(step, lr, c, mu))
        step.add_(1)
        return _kept(group, threshold)
    n = step.item()
    tau = threshold.item() + threshold_increment(n, float(lr), c, mu)
    step.fill_(n + 1)
    threshold.fill_(tau)
    return tau


def _update_one_by_one(
    group: dict[str, Any],
    rule: ThresholdRule,
    params: list[Tensor],
    grads: list[Tensor],
    accumulators: list[Tensor],
    buffers: list[Tensor],
    steps: list[Tensor],
    thresholds: list[Tensor],
) -> None:
    """Update tensor by tensor: the readable form, and the reference of the other."""
    lr, momentum = _rate(group), group["momentum"]
    on_device = _stays_on_device(group)
    for i, (weight, grad, v) in enumerate(zip(params, grads, accumulators, strict=True)):
        direction = grad.to(v.dtype)
        if group["maximize"]:
            direction = -direction
        if group["weight_decay"] != 0:
            direction = direction.add(weight, alpha=group["weight_decay"])
        if momentum != 0:
            buffers[i].mul_(momentum).add_(direction)
            direction = direction.add(buffers[i], alpha=momentum) if group["nesterov"] else buffers[i]
        if isinstance(lr, Tensor):
            v.sub_(_kept(group, direction) * lr)
        else:
            v.add_(direction, alpha=-lr)
        tau = _advance(group, lr, steps[i], thresholds[i])
        if on_device:
            weight.copy_(rule(_kept(group, v), tau))
        else:
            rule.write(v, tau, weight)


def _update_foreach(
    group: dict[str, Any],
    rule: ThresholdRule,
    params: list[Tensor],
    grads: list[Tensor],
    accumulators: list[Tensor],
    buffers: list[Tensor],
    steps: list[Tensor],
    thresholds: list[Tensor],
) -> None:
    """Update lists of tensors, one list for each device and dtype."""
    lr, momentum = _rate(group), group["momentum"]
    lists: dict[tuple[torch.device, torch.dtype], list[int]] = {}
    for i, parameter in enumerate(params):
        lists.setdefault((parameter.device, parameter.dtype), []).append(i)
    for indices in lists.values():
        weights = [params[i] for i in indices]
        vs = [accumulators[i] for i in indices]
        directions = [grads[i].to(accumulators[i].dtype) for i in indices]
        if group["maximize"]:
            directions = list(torch._foreach_neg(directions))
        if group["weight_decay"] != 0:
            directions = list(torch._foreach_add(directions, weights, alpha=group["weight_decay"]))
        if momentum != 0:
            ms = [buffers[i] for i in indices]
            torch._foreach_mul_(ms, momentum)
            torch._foreach_add_(ms, directions)
            directions = list(torch._foreach_add(directions, ms, alpha=momentum)) if group["nesterov"] else ms
        if isinstance(lr, Tensor):  # _foreach_mul would want lr on the device of the list
            torch._foreach_sub_(vs, [direction * lr for direction in directions])
        else:
            torch._foreach_add_(vs, directions, alpha=-lr)
        taus = [_advance(group, lr, steps[i], thresholds[i]) for i in indices]
        rule.foreach_write(vs, taus, weights)
