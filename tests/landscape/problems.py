"""Small objectives with known answers."""

import torch
from torch import Tensor, nn

from dirprune.landscape import Objective


def quadratic(curvatures: list[float]) -> Objective:
    """L(w) = 1/2 sum_j h_j w_j^2, whose Hessian is diag(h) everywhere; h may be negative."""
    h = torch.tensor(curvatures, dtype=torch.float64)
    net = nn.Linear(len(curvatures), 1, bias=False, dtype=torch.float64)

    class Rows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, x: Tensor) -> Tensor:
            return self.net.weight * x  # [d, d] for the identity: w on the diagonal

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return (0.5 * targets * outputs.sum(dim=1).square()).sum()

    data = [(torch.eye(len(h), dtype=torch.float64), h)]
    return Objective(Rows(), loss, data, errors=None)


def blobs(samples: int = 40, features: int = 4, classes: int = 3, dtype: torch.dtype = torch.float64):
    """Inputs and class labels, in two unequal batches."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(samples, features, generator=generator, dtype=dtype)
    y = torch.randint(classes, (samples,), generator=generator)
    cut = samples // 3
    return [(x[:cut], y[:cut]), (x[cut:], y[cut:])]


def mlp(seed: int = 0, features: int = 4, classes: int = 3, hidden: int = 5) -> nn.Sequential:
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(features, hidden), nn.Tanh(), nn.Linear(hidden, classes))
    return net.double()


def with_batchnorm(seed: int = 0) -> nn.Sequential:
    """A network with BatchNorm and dropout whose statistics belong to no data."""
    torch.manual_seed(seed)
    net = nn.Sequential(
        nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(0.5), nn.Linear(6, 3)
    ).double()
    net[1].running_mean.uniform_(-1, 1)
    net[1].running_var.uniform_(0.5, 2)
    return net
