"""torchvision's transformer, in any size."""

import pytest
import torch

from dirprune.errors import UsageError
from dirprune.models import create_model


@pytest.mark.parametrize(("channels", "size", "patch"), [(1, 28, 7), (3, 32, 8), (3, 32, 32)])
def test_output_shape(channels, size, patch):
    model = create_model(f"vit1x32p{patch}", num_classes=5, in_channels=channels, image_size=size)
    assert model(torch.zeros(2, channels, size, size)).shape == (2, 5)


def test_it_sees_where_a_patch_is():
    """Attention alone does not; the embedding of the position does."""
    torch.manual_seed(0)
    model = create_model("vit2x32p4", num_classes=5, in_channels=1, image_size=8).eval()
    torch.nn.init.normal_(model.heads.head.weight)  # torchvision begins with zeros
    image = torch.zeros(1, 1, 8, 8)
    image[..., :4, :4] = 1
    assert not torch.allclose(model(image), model(image.flip(-1)), atol=1e-4)


def test_width_scales_the_features():
    model = create_model("vit1x64p7", num_classes=10, in_channels=1, image_size=28, width=0.5)
    assert model.conv_proj.weight.shape == (32, 1, 7, 7)
    least = create_model("vit1x64p7", num_classes=10, in_channels=1, image_size=28, width=0.01)
    assert least.conv_proj.weight.shape == (16, 1, 7, 7)


def test_grey_images_begin_as_coloured_ones_do():
    """torchvision draws patches with the deviation of a unit output, and no bias."""
    torch.manual_seed(0)
    for channels in (1, 3):
        layer = create_model("vit1x512p8", num_classes=2, in_channels=channels, image_size=8).conv_proj
        # a normal cut off at +-2, whatever its deviation, is hardly cut here
        assert layer.weight.std().item() == pytest.approx((channels * 64) ** -0.5, rel=0.02)
        assert not layer.bias.any()


@pytest.mark.parametrize(
    ("name", "width", "words"),
    [
        ("vit2x64p5", 1.0, "divide into patches of 5 pixels; they have 28"),
        ("vit0x64p7", 1.0, "depth of 1 or more"),
        ("vit2x64p0", 1.0, "divide into patches"),
        ("vit2x40p7", 1.0, "multiple of 16: 40 is not"),
        ("vit2x64", 1.0, "vit<depth>x<dim>p<patch>"),
    ],
)
def test_what_cannot_be_built_is_said(name, width, words):
    with pytest.raises(UsageError, match=words):
        create_model(name, num_classes=10, in_channels=1, image_size=28, width=width)
