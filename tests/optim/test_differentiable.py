"""Autograd passes through the step: to the start, the gradient, the weight decay's part and the rate."""

import pytest
import torch
from torch import Tensor

from dirprune.optim import GRDA
from tests.optim.common import OPTIONS, PENALTIES


def steps(start: Tensor, gradients: Tensor, lr: Tensor | float, **options) -> Tensor:
    """The weight after one step for each gradient, as a function that autograd sees through."""
    w = start.clone()
    optimizer = GRDA([w], lr=lr, c=0.5, differentiable=True, **options)
    for gradient in gradients:
        w.grad = gradient.clone()
        optimizer.step()
    return w


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    """Start, three gradients and rate; after the steps some weights are zero and none is near the kink."""
    generator = torch.Generator().manual_seed(1)
    start = torch.tensor([1.0, -1.0, 0.02, -0.02, 0.7], dtype=torch.float64)
    gradients = 0.1 * torch.randn(3, 5, dtype=torch.float64, generator=generator)
    lr = torch.tensor(0.1, dtype=torch.float64)
    return start.requires_grad_(), gradients.requires_grad_(), lr.requires_grad_()


@pytest.mark.parametrize("penalty", PENALTIES)
@pytest.mark.parametrize("name", OPTIONS)
def test_gradcheck_through_three_steps(name: str, penalty: str) -> None:
    start, gradients, lr = inputs()
    options = {"penalty": penalty, **OPTIONS[name]}
    w = steps(start, gradients, lr, **options)
    assert w.tolist().count(0) == 2
    assert torch.autograd.gradcheck(lambda *args: steps(*args, **options), (start, gradients, lr))


def test_gradcheck_with_rate_of_one_element() -> None:
    start, gradients, _ = inputs()
    lr = torch.tensor([0.1], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(steps, (start, gradients, lr))


def test_gradient_to_the_rate_in_closed_form() -> None:
    """w_1 = w_0 - lr g - sign c lr^1.1, so dw_1/dlr = -g - sign 1.1 c lr^0.1; a zero weight does not move."""
    start = torch.tensor([1.0, -1.0, 0.001], dtype=torch.float64)
    gradient = torch.tensor([[0.2, 0.2, 0.0]], dtype=torch.float64)
    lr = torch.tensor(0.1, dtype=torch.float64, requires_grad=True)
    for i, sign in enumerate([1.0, -1.0, 0.0]):
        (slope,) = torch.autograd.grad(steps(start, gradient, lr)[i], lr)
        expected = -sign * 1.1 * 0.5 * 0.1**0.1 - (0.2 if sign else 0.0)
        assert slope.item() == pytest.approx(expected, abs=1e-14)


def test_differentiable_equals_the_usual_path() -> None:
    start, gradients, _ = inputs()
    for options in OPTIONS.values():
        through = steps(start, gradients, 0.1, **options)
        w = torch.nn.Parameter(start.detach().clone())
        optimizer = GRDA([w], lr=0.1, c=0.5, **options)
        for gradient in gradients.detach():
            w.grad = gradient.clone()
            optimizer.step()
        torch.testing.assert_close(through.detach(), w.detach(), rtol=1e-14, atol=1e-14)


def test_a_rate_can_be_learnt() -> None:
    """Meta-learning in three lines: descend on the rate through an inner step."""
    start = torch.tensor([1.0], dtype=torch.float64)
    lr = torch.tensor(0.1, dtype=torch.float64, requires_grad=True)
    losses = []
    for _ in range(20):
        loss = (steps(start, torch.tensor([[2.0]], dtype=torch.float64), lr) - 0.5).square().sum()
        losses.append(loss.item())
        (slope,) = torch.autograd.grad(loss, lr)
        with torch.no_grad():
            lr -= 0.02 * slope
    assert losses[-1] < 0.05 * losses[0]
