"""Ways to multiply with a Hessian, side by side: which is the cheapest, and in batches of which size?

Double backward, jvp of grad (as curvlinops does), grad of jvp (as dirprune does); each with weights and
images as they are and channels_last. Seconds of the CPU for one product over all images, the least of the
rounds; the ways take turns. Every product is held against that of double backward.

Example: python benchmarks/hessian_product.py --output benchmarks/results/hessian_product.json
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from curvlinops import HessianLinearOperator
from torch import Tensor, nn
from torch.func import functional_call, grad, jvp

from dirprune.landscape import HessianOperator, Objective
from dirprune.models import create_model
from record import record

Named = dict[str, Tensor]
Loss = Callable[[Named], Tensor]

NETWORKS = {
    "lenet5": ({"in_channels": 1, "image_size": 28}, (1, 28, 28)),
    "vgg16": ({"width": 0.25}, (3, 32, 32)),
}


def double_backward(loss: Loss, weights: Named, vector: Named) -> Named:
    leaves = {name: w.detach().requires_grad_() for name, w in weights.items()}
    slopes = torch.autograd.grad(loss(leaves), list(leaves.values()), create_graph=True)
    inner = sum((g * v).sum() for g, v in zip(slopes, vector.values(), strict=True))
    return dict(zip(leaves, torch.autograd.grad(inner, list(leaves.values())), strict=True))


def jvp_of_grad(loss: Loss, weights: Named, vector: Named) -> Named:
    return jvp(grad(loss), (weights,), (vector,))[1]


def grad_of_jvp(loss: Loss, weights: Named, vector: Named) -> Named:
    return grad(lambda w: jvp(loss, (w,), (vector,))[1])(weights)


def product(
    way: Callable[[Loss, Named, Named], Named], model: nn.Module, data: list[tuple[Tensor, Tensor]], v: Named
) -> Tensor:
    """Return H v, the mean over all images."""
    weights = {name: p.detach() for name, p in model.named_parameters()}
    samples = sum(len(y) for _, y in data)
    total = torch.zeros(())
    for x, y in data:

        def loss(w: Named, x: Tensor = x, y: Tensor = y) -> Tensor:
            return nn.functional.cross_entropy(functional_call(model, w, (x,)), y)

        parts = way(loss, weights, v)
        total = total + torch.cat([parts[name].reshape(-1) for name in weights]) * (len(y) / samples)
    return total


def measure(network: str, images: int, batch: int, rounds: int) -> list[dict[str, object]]:
    """Let all ways take turns."""
    arguments, shape = NETWORKS[network]
    torch.manual_seed(0)
    model = create_model(network, num_classes=10, **arguments).eval()
    inputs, labels = torch.randn(images, *shape), torch.randint(10, (images,))
    vector = {name: torch.randn_like(p) for name, p in model.named_parameters()}
    flat = torch.cat([part.reshape(-1) for part in vector.values()])
    last = torch.channels_last
    moved = create_model(network, num_classes=10, **arguments).eval()
    moved.load_state_dict(model.state_dict())
    moved = moved.to(memory_format=last)
    data = list(zip(inputs.split(batch), labels.split(batch), strict=True))
    moved_data = [(x.contiguous(memory_format=last), y) for x, y in data]
    moved_vector = {
        name: v.contiguous(memory_format=last) if v.ndim == 4 else v for name, v in vector.items()
    }
    operator = HessianOperator(Objective(model, nn.CrossEntropyLoss(), data), model.state_dict())
    other = HessianLinearOperator(model, nn.CrossEntropyLoss(), list(model.parameters()), data)
    ways: dict[str, Callable[[], Tensor]] = {
        "dirprune": lambda: operator @ flat,
        "curvlinops": lambda: other @ flat,
    }
    for way in (double_backward, jvp_of_grad, grad_of_jvp):
        ways[way.__name__] = lambda way=way: product(way, model, data, vector)  # type: ignore[misc]
        ways[f"{way.__name__}, channels_last"] = (
            lambda way=way: product(way, moved, moved_data, moved_vector)  # type: ignore[misc]
        )
    exact, seconds = ways["double_backward"](), {name: float("inf") for name in ways}
    errors = {}
    for _ in range(rounds):
        for name, call in ways.items():
            started = time.process_time()
            found = call().detach()
            seconds[name] = min(seconds[name], time.process_time() - started)
            errors[name] = ((found - exact).norm() / exact.norm()).item()
    mine = seconds["dirprune"]
    return [
        {
            "network": network,
            "images": images,
            "batch": batch,
            "way": name,
            "cpu_seconds": seconds[name],
            "ratio": seconds[name] / mine,
            "relative_difference": errors[name],
        }
        for name in ways
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--batches", type=int, nargs="+", default=[50, 100, 250, 500, 1000])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for network in given.networks:
        for batch in given.batches:
            rows += measure(network, given.images, batch, given.rounds)
            for row in rows[-8:]:
                print({key: row[key] for key in ("network", "batch", "way", "cpu_seconds", "ratio")})
    if given.output:
        record(given.output, {"rows": rows})
    return 0


if __name__ == "__main__":
    sys.exit(main())
