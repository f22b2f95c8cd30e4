"""What evaluation counts, held against NumPy on logits that are known."""

import numpy as np
import pytest
import torch
from torch import nn

from dirprune.train import evaluate


def test_loss_and_accuracies_are_those_of_the_logits():
    draw = np.random.default_rng(0)
    logits, labels = draw.normal(size=(50, 12)).astype(np.float32), draw.integers(12, size=50)
    parts = [slice(0, 32), slice(32, 50)]
    batches = iter([(torch.from_numpy(logits[part]), torch.from_numpy(labels[part])) for part in parts])
    found = evaluate(nn.Identity(), batches)
    own = logits[np.arange(50), labels]
    above = (logits > own[:, None]).sum(axis=1)
    assert found.accuracy == (above < 1).mean()
    assert found.top5 == (above < 5).mean() > found.accuracy
    assert found.loss == pytest.approx((np.log(np.exp(logits).sum(axis=1)) - own).mean(), rel=1e-6)


def test_top_5_of_ten_classes_says_nothing():
    batches = iter([(torch.eye(10), torch.arange(10))])
    assert evaluate(nn.Identity(), batches).top5 is None
