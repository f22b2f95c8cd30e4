"""timm's networks by name, and its scheduler driving gRDA."""

import math

import pytest
import torch
from timm.scheduler import CosineLRScheduler
from torchvision.models import resnet18

from dirprune import GRDA
from dirprune.errors import UsageError
from dirprune.models import create_model
from tests.optim.common import ones


def test_resnet18_is_torchvisions():
    ours = create_model("timm/resnet18", num_classes=5, image_size=32).eval()
    theirs = resnet18(num_classes=5).eval()
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(ours(x), theirs(x))


@pytest.mark.parametrize(
    ("name", "channels", "size"),
    [("convnext_atto", 3, 32), ("vit_tiny_patch16_224", 1, 48), ("swin_tiny_patch4_window7_224", 3, 56)],
)
def test_shapes(name, channels, size):
    with torch.device("meta"):
        model = create_model(f"timm/{name}", num_classes=7, in_channels=channels, image_size=size)
        assert model(torch.zeros(2, channels, size, size)).shape == (2, 7)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("resnet81", {}, "timm has no network 'resnet81'; did you mean resnet18 or"),
        ("x", {}, r"timm has no network 'x'; timm.list_models\(\) gives the names"),
        ("hf-hub:timm/resnet18", {}, "timm has no network"),
        ("local-dir:/tmp", {}, "timm has no network"),
        ("resnet18", {"width": 0.5}, "timm/resnet18 has one width: leave width 1, it is 0.5"),
        ("nest_tiny", {"image_size": 20}, "timm/nest_tiny cannot take images of 3 channels and 20 pixels"),
    ],
)
def test_bad_requests(name, change, message):
    with pytest.raises(UsageError, match=message) as caught:
        create_model(f"timm/{name}", num_classes=10, **change)
    assert "\n" not in str(caught.value)


def test_scheduler_drives_rate_and_threshold():
    """tau grows by c gamma^(mu + 1/2) ((n+1)^mu - n^mu) with the gamma that the scheduler gives."""
    epochs, steps, c, mu = 5, 3, 1e-3, 0.6
    parameter = ones(4)
    optimizer = GRDA([parameter], lr=0.2, c=c, mu=mu)
    scheduler = CosineLRScheduler(
        optimizer, t_initial=epochs, lr_min=0.02, warmup_t=1, warmup_lr_init=0.01, warmup_prefix=True
    )
    threshold, accumulator, n = 0.0, 1.0, 0
    for epoch in range(epochs):
        scheduler.step(epoch)
        cosine = 0.02 + (0.2 - 0.02) / 2 * (1 + math.cos(math.pi * (epoch - 1) / epochs))
        rate = 0.01 if epoch == 0 else cosine
        for _ in range(steps):
            parameter.grad = torch.full((4,), 0.5)
            optimizer.step()
            threshold += c * rate ** (mu + 0.5) * ((n + 1) ** mu - n**mu)
            accumulator -= rate * 0.5
            n += 1
    assert float(optimizer.state[parameter]["threshold"]) == pytest.approx(threshold, rel=1e-12)
    assert parameter.tolist() == pytest.approx([accumulator - threshold] * 4, rel=1e-5)
