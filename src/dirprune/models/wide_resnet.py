"""Wide ResNets for CIFAR, as in the paper."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from dirprune.errors import UsageError
from dirprune.models.shape import InputShape, scaled


class WideBlock(nn.Module):
    """A pre-activation block: two convolutions beside a shortcut on the raw input.

        y = conv2(relu(bn2(conv1(relu(bn1(x)))))) + shortcut(x)

    The stride is that of conv2; conv1 keeps the resolution.

    Args:
        before: channels of the input.
        after: channels of the output.
        stride: 1, or 2 to halve the resolution.

    Example:
        >>> import torch
        >>> WideBlock(8, 16, stride=2)(torch.zeros(1, 8, 4, 4)).shape
        torch.Size([1, 16, 2, 2])
    """

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(before)
        self.conv1 = nn.Conv2d(before, after, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, stride=stride, padding=1)
        same = before == after and stride == 1
        self.shortcut = nn.Identity() if same else nn.Conv2d(before, after, 1, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        """Map [b, before, h, w] to [b, after, h / stride, w / stride]."""
        y = self.conv1(functional.relu(self.bn1(x)))
        y = self.conv2(functional.relu(self.bn2(y)))
        total: Tensor = y + self.shortcut(x)
        return total


class WideResNet(nn.Module):
    """A Wide ResNet: one convolution, three stages of `WideBlock`, BatchNorm, ReLU, mean over pixels, linear.

    Every convolution has a bias; there is no dropout; all weights start as PyTorch starts them. The mean over
    pixels is the paper's average pool of 8 where images have 32 pixels.

    Args:
        shape: of the images.
        num_classes: number of outputs.
        width: factor on every layer but the last.
        depth: 6k + 4 for k blocks per stage, 10 or more.
        widen: factor on the three stages, which have 16, 32 and 64 times as many channels.

    Raises:
        UsageError: a depth that is not 6k + 4, or widen below 1.

    Example:
        >>> import torch
        >>> model = WideResNet(InputShape(channels=3, size=32), num_classes=10, width=1.0, depth=10, widen=1)
        >>> model(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 10])

    Source:
        Directional Pruning (arXiv 2006.09358), section 4; Zagoruyko & Komodakis 2016, section 3.
    """

    def __init__(self, shape: InputShape, num_classes: int, width: float, *, depth: int, widen: int) -> None:
        super().__init__()
        if depth < 10 or (depth - 4) % 6 or widen < 1:
            raise UsageError(
                f"a wide ResNet is wrn<depth>x<widen> with depth 10, 16, 22, 28, ... and widen 1 or more; "
                f"it is wrn{depth}x{widen}"
            )
        before = scaled(16, width)
        self.conv = nn.Conv2d(shape.channels, before, 3, padding=1)
        blocks: list[nn.Module] = []
        for stage, channels in enumerate((16, 32, 64)):
            after = scaled(channels * widen, width)
            for block in range((depth - 4) // 6):
                stride = 2 if stage > 0 and block == 0 else 1
                blocks.append(WideBlock(before, after, stride))
                before = after
        self.blocks = nn.Sequential(*blocks)
        # In PyTorch's convention 0.9 is the weight of the newest batch, so the running statistics barely run.
        self.bn = nn.BatchNorm2d(before, momentum=0.9)
        self.linear = nn.Linear(before, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map [b, channels, size, size] to [b, num_classes]."""
        x = functional.relu(self.bn(self.blocks(self.conv(x))))
        logits: Tensor = self.linear(x.mean(dim=(2, 3)))
        return logits
