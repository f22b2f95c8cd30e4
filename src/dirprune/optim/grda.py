"""GRDA, the optimiser."""

import warnings
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim.optimizer import Optimizer, ParamsT, StateDict, _use_grad_for_differentiable

from dirprune.core.dtypes import wide
from dirprune.core.sharding import local, placed_like
from dirprune.core.threshold import RULES, Penalty, ThresholdRule
from dirprune.errors import LostShadowWarning, UsageError
from dirprune.optim.gathering import Gathering
from dirprune.optim.lost_shadow import fraction_already_sparse
from dirprune.optim.options import check_dtypes, check_options, check_params, check_sharding, without_numpy
from dirprune.optim.paths import Plans, update
from dirprune.optim.state import accumulator_dtype, check_and_shield, typed_state
from dirprune.optim.tensors import Tensors
from dirprune.optim.update import host_float


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
    :class:`torch.optim.SGD`, in float32 and float64 to the bit, but for rounding where the step is compiled,
    ``capturable`` or ``differentiable``.

    Differs from the paper in allowing momentum and weight decay (both off by default), formed as
    ``torch.optim.SGD`` forms them. As published it works best at the constant learning rate that suits SGD
    without momentum, or with one drop late in training; with momentum and ``penalty="l0"`` at one that
    suits SGD with momentum, for half of the training, and then falls.

    Args:
        params: Parameters, named parameters, or parameter groups, each with its own options if wanted;
            :func:`dirprune.prunable_groups` makes groups that keep biases and normalisation dense.
            float16, bfloat16, float32 or float64; the first two keep their dtype and have a float32
            accumulator.
        lr: Learning rate gamma, >= 0; a float or a tensor with one element.
        c: Scale of the threshold, >= 0. The paper uses 5e-4 to 5e-3.
        mu: Exponent of the threshold's growth, 0 < mu <= 1. The paper uses 0.4 to 0.7.
        penalty: ``"l1"``, as above: single weights become zero. ``"l0"``: they do at the same threshold, and
            the others keep their size, by :class:`~dirprune.core.threshold.HardThreshold`. ``"group"``:
            output channels do, each as a whole, by :class:`~dirprune.core.threshold.GroupSoftThreshold`, so
            that :func:`dirprune.export.slim` leaves a network that is smaller and faster where dense ones
            run. ``"rescaled"``: single weights do, and each output channel has its l1 norm back, by
            :class:`~dirprune.core.threshold.RescaledSoftThreshold`. ``c`` and ``mu`` mean the same for all.
            For the last two, which look at whole channels, a sharded parameter must be so along dimension 0,
            as FSDP2 does it. ``"group"`` has no fused kernel; that of ``"rescaled"`` agrees with the other
            ways but for the rounding of a channel's norm, and takes float32 and float64 accumulators.
        momentum: beta, >= 0.
        nesterov: Nesterov's form of the momentum.
        beta2: Decay of Adam's mean of squared gradients, 0 <= beta2 < 1; 0: none, as above. With it the step
            of each weight is divided by the root of that mean, which transformers need:

            .. math:: s_{n+1} = \beta_2 s_n + (1 - \beta_2) \nabla f(w_n)^2, \qquad
                      v_{n+1} = v_n - \gamma_n \Bigl(\frac{\hat m_{n+1}}{\sqrt{\hat s_{n+1}} + \epsilon}
                      + \lambda w_n\Bigr)

            with Adam's means, free of bias, of d = grad f. Then ``c=0`` is :class:`torch.optim.AdamW` with
            ``betas=(momentum, beta2)``, ``weight_decay`` is decoupled as there, and with a constant threshold
            it would be AdaBreg. Steps are as long as the rate, so ``c`` is of another size than with SGD. It
            has no fused kernel, and cannot be switched on after the first step, nor can momentum beside it.
        eps: epsilon, > 0, of ``beta2``.
        weight_decay: lambda, the l2 penalty, >= 0.
        foreach: Update lists of tensors at once (needs temporaries of the size of the parameters), or, if
            ``False``, one by one. ``None`` chooses: lists on accelerators, else one by one. With an
            ``accumulator_dtype`` always one by one, for each tensor is rounded by chances of its own.
        fused: Update all tensors in one pass over the memory, without temporaries; with ``True`` a
            ``GradScaler`` leaves its unscaling to that pass, as with torch's fused optimisers. ``None``
            chooses: a kernel where there is one, unless ``foreach`` is given. The CPU's is compiled once, in
            a second, by the system's C++ compiler; without one, and for tensors that it cannot take
            (subclasses, gaps in memory, with ``"rescaled"`` scattered channels), the other ways serve.
        accumulator_dtype: ``torch.bfloat16`` halves the memory of the accumulator, which is then rounded
            stochastically: up or down by chance, unbiased. The chance follows from value and step: runs
            repeat and resume to the bit.
        maximize: Ascend instead of descending.
        capturable: Keep ``step`` and ``threshold`` on the parameter's device and never read them on the
            host, as CUDA graphs need. Otherwise they live on the CPU, and a step waits for the device only
            for a ``GradScaler``'s overflow flag, for a rate that is a tensor there, and, at first, to see
            whether the weights are sparse already.
        differentiable: Let autograd pass through the step.

    State of each parameter: ``accumulator`` (shape of the parameter; float32 or wider, or as asked),
    ``step`` and ``threshold`` (0-dim float64), ``momentum_buffer`` where momentum is used, ``exp_avg_sq``
    where ``beta2`` is. The accumulator cannot be rebuilt from the weights: to go on training, restore the
    optimiser's ``state_dict`` too. Writing to the parameters from outside has no lasting effect, for the
    next step takes them from the accumulator.

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

    threshold_rules: ClassVar[Mapping[str, ThresholdRule]] = RULES

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor,
        c: float = 5e-4,
        mu: float = 0.6,
        *,
        penalty: Penalty = "l1",
        momentum: float = 0.0,
        nesterov: bool = False,
        beta2: float = 0.0,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        foreach: bool | None = None,
        fused: bool | None = None,
        accumulator_dtype: torch.dtype | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
    ) -> None:
        defaults: dict[str, Any] = {
            "lr": lr,
            "c": c,
            "mu": mu,
            "penalty": penalty,
            "momentum": momentum,
            "nesterov": nesterov,
            "beta2": beta2,
            "eps": eps,
            "weight_decay": weight_decay,
            "foreach": foreach,
            "fused": fused,
            "accumulator_dtype": accumulator_dtype,
            "maximize": maximize,
            "capturable": capturable,
            "differentiable": differentiable,
        }
        defaults = without_numpy(defaults)
        check_options(defaults, self.threshold_rules)
        self._unchecked: dict[int, list[Tensor]] = {}  # of each group, what has not had its first real step
        self._warned = False  # of a lost shadow
        self._gathering = Gathering()
        self._plans: Plans = {}
        super().__init__(params, defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group of parameters; options that it does not name take the constructor's values."""
        super().add_param_group(param_group)
        self.param_groups[-1].update(without_numpy(self.param_groups[-1]))
        try:
            check_options(self.param_groups[-1], self.threshold_rules)
            check_params(self.param_groups[-1])
            check_sharding(self.param_groups[-1], self._rule(self.param_groups[-1]))
        except UsageError:
            self.param_groups.pop()
            raise

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take over groups and state, with their right dtypes and a default for options that are missing."""
        defaults = {**vars(self), **state}["defaults"]  # load_state_dict hands none over, pickle all
        for group in state["param_groups"]:  # before anything is replaced
            for option, value in defaults.items():
                group.setdefault(option, value)
            # A schedule may have left the rate below 0 by rounding, or Nesterov's form without momentum.
            check_options({**group, "lr": 0.0, "nesterov": False}, self.threshold_rules)
            check_dtypes(group)
            check_sharding(group, self._rule(group))
        super().__setstate__(state)
        self._unchecked = {}  # a state that was restored has its shadow
        self._warned = False
        self._gathering = Gathering()
        self._plans = {}
        for group in self.param_groups:
            for parameter in group["params"]:
                held = self.state.get(parameter, {})
                for key, value in held.items():
                    held[key] = typed_state(key, value, parameter, group)

    def load_state_dict(self, state_dict: StateDict) -> None:
        """Restore the state exactly, whatever the dtype of the parameters.

        torch casts what it loads to the parameter's dtype, which would round the float32 accumulator and
        the float64 threshold of a bfloat16 parameter. Here each keeps its own dtype.

        Args:
            state_dict: What ``state_dict()`` returned. Its tensors are copied, not shared.

        Raises:
            UsageError: The state is another optimiser's, or of parameters of other shapes, or an option in
                it is out of range.
        """
        handle = self.register_load_state_dict_pre_hook(check_and_shield)  # after the user's own hooks
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
            UsageError: Momentum or ``beta2`` has been switched on too late. No weight has changed then.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()

        gradients = [[p.grad for p in group["params"]] for group in self.param_groups]
        _refuse_sparse(gradients)
        unscale, skip = self._read_grad_scaler()
        if skip:
            return loss
        if not torch.compiler.is_compiling():
            self._gathering.check(self.state)
        # All groups before any is updated: one may be refused.
        rules = list(map(self._rule, self.param_groups))
        tensors = list(map(self._tensors, self.param_groups, gradients))
        for group, rule, held in zip(self.param_groups, rules, tensors, strict=True):
            update(group, rule, held, unscale, self._plans)
        return loss

    def _rule(self, group: dict[str, Any]) -> ThresholdRule:
        """Return the rule of a group's penalty."""
        return self.threshold_rules[group["penalty"]]

    @property
    def _step_supports_amp_scaling(self) -> bool:  # GradScaler reads this name
        """Whether GradScaler shall leave gradients scaled for the step, as torch's fused optimisers want."""
        return any(group["fused"] for group in self.param_groups)

    def _read_grad_scaler(self) -> tuple[float, bool]:
        """Return what to multiply gradients with, and whether some are not finite."""
        scale, found_inf = getattr(self, "grad_scale", None), getattr(self, "found_inf", None)
        # Rounded as unscale_ rounds it.
        unscale = 1.0 if scale is None else scale.double().reciprocal().float().item()
        return unscale, found_inf is not None and found_inf.item() != 0

    def _tensors(self, group: dict[str, Any], gradients: list[Tensor | None]) -> Tensors:
        """Gather what the step needs, from the step before where that is the same."""
        compiling = torch.compiler.is_compiling()
        if not compiling:
            checked = id(group) not in self._unchecked or group["c"] == 0
            if checked and (same := self._gathering.take(group, gradients)):
                return same
        params: list[Tensor] = []
        grads: list[Tensor] = []
        accumulators: list[Tensor] = []
        buffers: list[Tensor] = []
        steps: list[Tensor] = []
        thresholds: list[Tensor] = []
        squares: list[Tensor] = []
        self._init_group(group, params, grads, accumulators, buffers, steps, thresholds, squares)
        if any(isinstance(p, DTensor) for p in params):
            # Of a sharded tensor each rank updates its own part, which has all that the rule looks at.
            grads = [placed_like(grad, p) for p, grad in zip(params, grads, strict=True)]
            params, grads, accumulators, buffers, squares = (
                [local(tensor) for tensor in held] for held in (params, grads, accumulators, buffers, squares)
            )
            return Tensors(params, grads, accumulators, buffers, steps, thresholds, squares)
        tensors = Tensors(params, grads, accumulators, buffers, steps, thresholds, squares)
        if not compiling:
            self._gathering.keep(group, tensors, self.state)
        return tensors

    def _init_group(  # torch.compile knows this name and runs it outside the graph
        self,
        group: dict[str, Any],
        params: list[Tensor],
        grads: list[Tensor],
        accumulators: list[Tensor],
        buffers: list[Tensor],
        steps: list[Tensor],
        thresholds: list[Tensor],
        squares: list[Tensor],
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
                dtype = accumulator_dtype(group, parameter)
                state["accumulator"] = parameter.to(dtype, copy=True)
                self._unchecked.setdefault(id(group), []).append(parameter)
            if group["momentum"] != 0 and "momentum_buffer" not in state:
                if group["beta2"] != 0 and state["step"] > 0:
                    raise UsageError(
                        "momentum cannot be switched on after the first step with beta2, whose means are of "
                        "all steps: start with a small one"
                    )
                state["momentum_buffer"] = torch.zeros_like(state["accumulator"], dtype=wide(parameter.dtype))
            if group["beta2"] != 0 and "exp_avg_sq" not in state:
                if state["step"] > 0:
                    raise UsageError(
                        "beta2 cannot be switched on after the first step: start with it, or load a state "
                        "that did"
                    )
                state["exp_avg_sq"] = torch.zeros_like(state["accumulator"], dtype=wide(parameter.dtype))
            params.append(parameter)
            grads.append(parameter.grad)
            accumulators.append(state["accumulator"])
            if group["momentum"] != 0:
                buffers.append(state["momentum_buffer"])
            if group["beta2"] != 0:
                squares.append(state["exp_avg_sq"])
            steps.append(state["step"])
            thresholds.append(state["threshold"])
        if id(group) in self._unchecked:
            self._warn_of_lost_shadow(group)

    def _warn_of_lost_shadow(self, group: dict[str, Any]) -> None:
        """Warn, once, if this group starts its first real step on weights that are already sparse."""
        if group["c"] == 0 or _is_zero_on_host(group["lr"]):  # nothing is thresholded yet
            return
        fresh = self._unchecked.pop(id(group))
        sparse = fraction_already_sparse([local(p) for p in fresh])
        if sparse is not None and not self._warned:
            self._warned = True
            warnings.warn(
                f"a new GRDA starts on weights that are already sparse ({100 * sparse:.0f} % zeros): "
                "the accumulator (the memory of each zero weight) and the threshold are lost and begin anew, "
                "so this is not a resume. Load the optimizer's state_dict to resume exactly.",
                LostShadowWarning,
                stacklevel=7,  # the caller of step, beyond this function, two of step's, and two wrappers
            )


def _refuse_sparse(gradients: list[list[Tensor | None]]) -> None:
    """Raise, before anything has changed, if any gradient is sparse."""
    for grads in gradients:
        if any(grad is not None and grad.layout is not torch.strided for grad in grads):
            raise RuntimeError(
                "GRDA does not support sparse gradients: every weight decays with the threshold at every "
                "step; use a dense gradient (sparse=False in nn.Embedding)"
            )


def _is_zero_on_host(lr: float | Tensor) -> bool:
    """Whether a learning rate is 0; a tensor on a device is taken for positive, not waited for."""
    return not (isinstance(lr, Tensor) and lr.device.type != "cpu") and host_float(lr) == 0
