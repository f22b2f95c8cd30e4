"""The networks of the benchmarks have outputs in which a difference between programs would show."""

import importlib.util
from pathlib import Path

import pytest
import torch
from torch import nn

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "networks.py"


@pytest.mark.parametrize("name", ["vgg16", "wrn16x4"])
def test_outputs_depend_on_the_image(name):
    spec = importlib.util.spec_from_file_location("networks", SCRIPT)
    networks = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(networks)
    model, shape, _ = networks.network(name, 0.95)
    with torch.inference_mode():
        outputs = model(torch.randn(8, *shape))
    assert outputs.std(0).mean() > 0.05 * outputs.abs().max()
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            zeros = int((layer.weight == 0).sum())
            assert 0 <= zeros - int(0.95 * layer.weight.numel()) < 5  # ties
