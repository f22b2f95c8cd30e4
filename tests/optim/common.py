"""What the tests of the optimiser share."""

from collections.abc import Callable, Iterable

import numpy as np
import torch
from torch import Tensor, nn

from dirprune.optim import GRDA
from tests.oracles import numpy_grda

HALF = (torch.float16, torch.bfloat16)
DTYPES = (*HALF, torch.float32, torch.float64)
OPTIONS = {
    "plain": {},
    "momentum": {"momentum": 0.9},
    "nesterov": {"momentum": 0.9, "nesterov": True},
    "weight decay": {"weight_decay": 0.05},
    "maximize": {"maximize": True},
    "all": {"momentum": 0.8, "nesterov": True, "weight_decay": 0.05, "maximize": True},
}
PENALTIES = ("l1", "l0")
"""Those that act element by element, which the kernels compute."""


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors have the same dtype, shape and bytes (so that -0 and 0, or two NaN, differ)."""

    def raw(t: Tensor) -> Tensor:
        return t.detach().contiguous().reshape(-1).view(torch.uint8)

    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(raw(a), raw(b))


def ones(*shape: int, **options) -> nn.Parameter:
    """A parameter of ones."""
    return nn.Parameter(torch.ones(*shape, **options))


def parameters(dtype: torch.dtype = torch.float32, seed: int = 0) -> list[nn.Parameter]:
    """Parameters of many layouts: a vector, 0-dim, empty, channels_last, a transpose, every other column."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(dtype)

    tensors = [
        normal(37),
        normal(),
        normal(0, 3),
        normal(2, 3, 5, 4).contiguous(memory_format=torch.channels_last),
        normal(5, 7).t(),
        normal(6, 8)[:, ::2],
    ]
    return [nn.Parameter(t) for t in tensors]


def set_gradients(params: Iterable[Tensor], seed: int) -> None:
    """Give each parameter a new random gradient of its own layout; the same for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    for p in params:
        values = torch.randn(p.shape, generator=generator, dtype=torch.float32).to(p.dtype)
        p.grad = torch.empty_like(p).copy_(values)


def train(optimizer: torch.optim.Optimizer, steps: int, first: int = 0) -> None:
    """Take steps with random gradients numbered from ``first``."""
    for n in range(first, first + steps):
        set_gradients((p for group in optimizer.param_groups for p in group["params"]), seed=n)
        optimizer.step()


def assert_same(a: GRDA, b: GRDA) -> None:
    """Parameters and state of two optimisers agree to the bit, key by key."""
    pairs = [
        (p, q)
        for g, h in zip(a.param_groups, b.param_groups, strict=True)
        for p, q in zip(g["params"], h["params"], strict=True)
    ]
    for i, (p, q) in enumerate(pairs):
        assert same_bits(p, q), f"parameter {i} differs: {p} and {q}"
        assert a.state[p].keys() == b.state[q].keys()
        for key, value in a.state[p].items():
            assert same_bits(value, b.state[q][key]), f"{key} of parameter {i} differs"


def small_model(dtype: torch.dtype = torch.float32, seed: int = 0) -> nn.Sequential:
    """Two linear layers."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).to(dtype)


def backward(model: nn.Module, seed: int, inputs: int = 6) -> Tensor:
    """Set the gradients of one random regression batch; return its loss."""
    generator = torch.Generator().manual_seed(seed)
    dtype = next(model.parameters()).dtype
    x, y = (torch.randn(16, k, generator=generator).to(dtype) for k in (inputs, 3))
    model.zero_grad()
    loss = nn.functional.mse_loss(model(x), y)
    loss.backward()
    return loss.detach()


def train_as_the_oracle(
    make: Callable[..., GRDA],
    prox: Callable[..., np.ndarray],
    start: np.ndarray,
    target: np.ndarray,
    rtol: float,
    **options,
) -> GRDA:
    """Train one parameter beside float64 NumPy, and check every step; the rate falls half way."""
    rates = [0.1] * 20 + [0.03] * 20
    told = {key: value for key, value in options.items() if key != "foreach"}
    expected = numpy_grda.grda(
        start, lambda n, w: (w - target) * (1 + n % 3), rates, 0.4, 0.6, prox=prox, **told
    )
    w = nn.Parameter(torch.from_numpy(start.copy()))
    optimizer = make([w], c=0.4, **options)
    for n, rate in enumerate(rates):
        optimizer.param_groups[0]["lr"] = rate
        w.grad = (w.detach() - torch.from_numpy(target)) * (1 + n % 3)
        optimizer.step()
        for found, wanted in (
            (w.detach(), expected.weights[n]),
            (optimizer.state[w]["accumulator"], expected.accumulators[n]),
        ):
            np.testing.assert_allclose(found, wanted, rtol=rtol, atol=rtol / 10)
    return optimizer
