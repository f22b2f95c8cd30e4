"""Networks with zeros in them."""

import torch
from torch import nn


def thin(model, sparsity, seed=0):
    """Random zeros, biases and BatchNorm statistics, so that nothing is trivially right."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                module.weight[torch.rand(module.weight.shape, generator=generator) < sparsity] = 0
                if module.bias is not None:
                    module.bias.normal_(0, 0.3, generator=generator)
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.3, generator=generator)
                module.running_var.uniform_(0.3, 2, generator=generator)
                if module.affine:
                    module.weight.normal_(1, 0.5, generator=generator)
                    module.bias.normal_(0, 0.3, generator=generator)
    return model.eval()
