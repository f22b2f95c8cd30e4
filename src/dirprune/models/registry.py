"""Networks by name."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable
from functools import partial

from torch import nn

from dirprune.errors import UsageError, from_extra, unknown
from dirprune.models.lenet import lenet5, lenet_300_100
from dirprune.models.shape import InputShape
from dirprune.models.vgg import vgg16
from dirprune.models.vision_transformer import vision_transformer
from dirprune.models.wide_resnet import WideResNet

Factory = Callable[[InputShape, int, float], nn.Module]


def create_model(
    name: str, *, num_classes: int, in_channels: int = 3, image_size: int = 32, width: float = 1.0
) -> nn.Module:
    """Build a network with fresh weights, drawn from torch's global generator.

    Args:
        name: a key of `MODELS`, or `wrn<depth>x<widen>` with depth 6k + 4, or `vit<depth>x<dim>p<patch>`, or
            `timm/<name>` with a name that timm's `list_models` gives, which has one width.
        num_classes: number of outputs.
        in_channels: channels of the images.
        image_size: height and width of the images, in pixels.
        width: factor on the number of channels of every layer but the last.

    Returns:
        A network from float32 [b, in_channels, image_size, image_size] to logits [b, num_classes].

    Raises:
        UsageError: the name is unknown, a number is out of range, or the network cannot take such images.
        MissingPackageError: torchvision or timm, which the network comes from, is not installed.

    Example:
        >>> model = create_model("lenet-300-100", num_classes=10, in_channels=1, image_size=28)
        >>> sum(parameter.numel() for parameter in model.parameters())
        266610
    """
    for label, value in (
        ("num_classes", num_classes),
        ("in_channels", in_channels),
        ("image_size", image_size),
    ):
        if value < 1:
            raise UsageError(f"{label} should be 1 or more; it is {value}")
    if not (math.isfinite(width) and width > 0):
        raise UsageError(f"width should be a positive number; it is {width}")
    return _factory(name)(InputShape(in_channels, image_size), num_classes, width)


def _factory(name: str) -> Factory:
    """Look a network up."""
    if name in MODELS:
        return MODELS[name]
    if wide := re.fullmatch(r"wrn(\d{1,4})x(\d{1,3})", name):
        return partial(WideResNet, depth=int(wide[1]), widen=int(wide[2]))
    if vit := re.fullmatch(r"vit(\d{1,3})x(\d{1,5})p(\d{1,3})", name):
        depth, dim, patch = map(int, vit.groups())
        return partial(vision_transformer, depth=depth, dim=dim, patch=patch)
    if name.startswith("timm/"):
        return partial(_timm, name.removeprefix("timm/"))
    raise UsageError(
        f"{unknown('network', name, MODELS)}, wrn<depth>x<widen>, vit<depth>x<dim>p<patch>, timm/<name>"
    )


def _resnet50(shape: InputShape, num_classes: int, width: float) -> nn.Module:
    """Build torchvision's ResNet-50, which has one width and one kind of input."""
    with from_extra("train", "resnet50"):
        from torchvision.models import resnet50
    if shape.channels != 3 or shape.size < 32 or width != 1:
        raise UsageError(
            f"resnet50 needs images of 3 channels and 32 pixels or more, and width 1; "
            f"they have {shape.channels} channels and {shape.size} pixels, and width is {width}"
        )
    model: nn.Module = resnet50(weights=None, num_classes=num_classes)
    return model


def _timm(name: str, shape: InputShape, num_classes: int, width: float) -> nn.Module:
    """Build a network of timm's, with fresh weights; nothing is downloaded."""
    with from_extra("timm", f"timm/{name}"):
        import timm
    if not timm.is_model(name):  # also keeps out names by which timm would fetch a network from elsewhere
        close = difflib.get_close_matches(name, timm.list_models(), n=3)
        hint = f"did you mean {' or '.join(close)}?" if close else "timm.list_models() gives the names"
        raise UsageError(f"timm has no network {name!r}; {hint}")
    if width != 1:
        raise UsageError(f"timm/{name} has one width: leave width 1, it is {width}")
    # Networks that are made for one size of image, such as ViT, have to be told; the others do not ask.
    config = timm.get_pretrained_cfg(name)
    size = {"img_size": shape.size} if config and config.fixed_input_size else {}
    try:
        model: nn.Module = timm.create_model(
            name, pretrained=False, num_classes=num_classes, in_chans=shape.channels, **size
        )
    except (ArithmeticError, AssertionError, RuntimeError) as error:  # each network has its own words
        raise UsageError(
            f"timm/{name} cannot take images of {shape.channels} channels and {shape.size} pixels: {error}"
        ) from error
    return model


MODELS: dict[str, Factory] = {
    "lenet-300-100": lenet_300_100,
    "lenet5": lenet5,
    "vgg16": vgg16,
    "wrn16x4": partial(WideResNet, depth=16, widen=4),
    "wrn28x10": partial(WideResNet, depth=28, widen=10),
    "resnet50": _resnet50,
}
