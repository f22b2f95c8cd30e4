"""Vision transformers of any size: torchvision's, for images of any number of channels."""

from torch import nn

from dirprune.errors import UsageError, from_extra
from dirprune.models.shape import InputShape

_HEAD = 16  # features of an attention head
_MLP = 4  # times the width: the hidden layer between two attentions


def vision_transformer(
    shape: InputShape, num_classes: int, width: float, *, depth: int, dim: int, patch: int
) -> nn.Module:
    """Build a transformer over patches of an image, without dropout.

    Heads have 16 features, the layers between attentions are four times as wide as the others.

    Args:
        shape: of the images; the size a multiple of ``patch``.
        num_classes: number of outputs.
        width: factor on ``dim``, which is rounded to whole heads.
        depth: number of encoder blocks.
        dim: features of each patch, a multiple of 16.
        patch: height and width of a patch, in pixels.

    Returns:
        A network from [b, channels, size, size] to [b, num_classes].

    Raises:
        UsageError: the image does not divide into patches, or the features not into heads.
        MissingPackageError: torchvision is not installed.

    Example:
        >>> shape = InputShape(channels=1, size=28)
        >>> model = vision_transformer(shape, num_classes=10, width=1.0, depth=4, dim=64, patch=7)
        >>> sum(parameter.numel() for parameter in model.parameters())
        205066

    Source:
        Dosovitskiy et al. 2021, "An image is worth 16x16 words", section 3.1.
    """
    with from_extra("train", "vit"):
        from torchvision.models import VisionTransformer
    features = max(_HEAD, round(dim * width / _HEAD) * _HEAD) if width != 1 else dim
    if depth < 1 or patch < 1 or shape.size % patch:
        raise UsageError(
            f"vit{depth}x{dim}p{patch} needs a depth of 1 or more and images that divide into patches of "
            f"{patch} pixels; they have {shape.size}"
        )
    if features % _HEAD or not features:
        raise UsageError(
            f"vit{depth}x{dim}p{patch} needs a width that is a multiple of {_HEAD}: {features} is not"
        )
    model: nn.Module = VisionTransformer(
        image_size=shape.size,
        patch_size=patch,
        num_layers=depth,
        num_heads=features // _HEAD,
        hidden_dim=features,
        mlp_dim=_MLP * features,
        num_classes=num_classes,
    )
    if shape.channels != 3:  # torchvision's takes three, and begins so
        model.conv_proj = nn.Conv2d(shape.channels, features, patch, patch)
        nn.init.trunc_normal_(model.conv_proj.weight, std=(shape.channels * patch**2) ** -0.5)
        nn.init.zeros_(model.conv_proj.get_parameter("bias"))
    return model
