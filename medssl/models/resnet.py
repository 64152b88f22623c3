"""Residual networks for 2D and 3D: ResNet, and the options of ResNet-RS."""

from collections.abc import Callable
from typing import Literal

import torch.nn.functional as F  # noqa: N812 (the usual name)
from torch import Tensor, nn

from medssl.models.encoder import Encoder
from medssl.models.layers import conv
from medssl.models.masked import Norm, NormKind

_LAYERS: dict[int, tuple[tuple[int, ...], bool]] = {
    10: ((1, 1, 1, 1), False),
    18: ((2, 2, 2, 2), False),
    34: ((3, 4, 6, 3), False),
    50: ((3, 4, 6, 3), True),
    101: ((3, 4, 23, 3), True),
    152: ((3, 8, 36, 3), True),
}
_EXPANSION = 4


class ResNet(Encoder):
    """Residual network (He et al., CVPR 2016, https://arxiv.org/abs/1512.03385).

    With `rs`, the architecture of ResNet-RS (Bello et al., NeurIPS 2021, https://arxiv.org/abs/2103.07579): a stem of
    three convolutions, a strided convolution in place of the max pooling, shortcuts that average before they project,
    and squeeze-and-excitation. Deviation from both: N dimensions, any number of channels, and the norm is a choice.

    Args:
        spatial_dims: 2 or 3.
        in_channels: Channels of the image.
        depth: 10, 18, 34, 50, 101 or 152 layers.
        width: Channels of the first stage; each further stage has twice as many.
        norm: `batch` (the papers'), `instance` or `group`; batch norm wants batches of 32 and more.
        rs: The options of ResNet-RS.
        small: A stem of one 3-convolution without stride and without pooling, for images under some 64 voxels a side.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        depth: Literal[10, 18, 34, 50, 101, 152] = 50,
        width: int = 64,
        norm: NormKind = "batch",
        rs: bool = False,
        small: bool = False,
    ) -> None:
        super().__init__()
        self.spatial_dims, self.in_channels = spatial_dims, in_channels
        layers, bottleneck = _LAYERS[depth]
        block: Callable[..., nn.Module] = _Bottleneck if bottleneck else _Basic
        expansion = _EXPANSION if bottleneck else 1
        self.stem = _stem(spatial_dims, in_channels, width, norm, rs, small)
        channels, first = width, 1 if small else 4
        self.stages = nn.ModuleList()
        for level, count in enumerate(layers):
            blocks = []
            for number in range(count):
                stride = 2 if level and number == 0 else 1
                blocks.append(block(spatial_dims, channels, width * 2**level, stride, norm, rs))
                channels = width * 2**level * expansion
            self.stages.append(nn.Sequential(*blocks))
        self.feature_channels = tuple(width * 2**level * expansion for level in range(4))
        self.strides = tuple((first * 2**level,) * spatial_dims for level in range(4))
        _initialise(self)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Feature maps of the four stages, fine to coarse."""
        out, maps = self.stem(image), []
        for stage in self.stages:
            out = stage(out)
            maps.append(out)
        return maps

    def embed(self, image: Tensor) -> Tensor:
        """Mean of the coarsest map: (B, E)."""
        return self.forward(image)[-1].flatten(2).mean(-1)

    def layer_depths(self) -> dict[str, int]:
        """Depth of each top-level part, 0 = nearest to the image, for layer-wise learning rates."""
        return {"stem": 0, **{f"stages.{n}": n + 1 for n in range(len(self.stages))}}


class _Unit(nn.Sequential):
    """Convolution and norm."""

    def __init__(self, dims: int, inputs: int, outputs: int, kernel: int, stride: int, norm: NormKind) -> None:
        layer = conv(dims)(inputs, outputs, kernel, stride=stride, padding=kernel // 2, bias=False)
        super().__init__(layer, Norm(outputs, norm))


class _Basic(nn.Module):
    """Two 3-convolutions and a shortcut."""

    def __init__(self, dims: int, inputs: int, width: int, stride: int, norm: NormKind, rs: bool) -> None:
        super().__init__()
        self.first, self.last = _Unit(dims, inputs, width, 3, stride, norm), _Unit(dims, width, width, 3, 1, norm)
        self.gate = _Gate(dims, width) if rs else nn.Identity()
        self.shortcut = _shortcut(dims, inputs, width, stride, norm, rs)

    def forward(self, image: Tensor) -> Tensor:
        """(B, C, *S) to (B, D, *S / stride)."""
        return F.relu(self.gate(self.last(F.relu(self.first(image)))) + self.shortcut(image))


class _Bottleneck(nn.Module):
    """1-, 3- and 1-convolution, the stride in the middle, and a shortcut."""

    def __init__(self, dims: int, inputs: int, width: int, stride: int, norm: NormKind, rs: bool) -> None:
        super().__init__()
        self.first, self.middle = _Unit(dims, inputs, width, 1, 1, norm), _Unit(dims, width, width, 3, stride, norm)
        self.last = _Unit(dims, width, width * _EXPANSION, 1, 1, norm)
        self.gate = _Gate(dims, width * _EXPANSION) if rs else nn.Identity()
        self.shortcut = _shortcut(dims, inputs, width * _EXPANSION, stride, norm, rs)

    def forward(self, image: Tensor) -> Tensor:
        """(B, C, *S) to (B, 4 D, *S / stride)."""
        out = F.relu(self.middle(F.relu(self.first(image))))
        return F.relu(self.gate(self.last(out)) + self.shortcut(image))


class _Gate(nn.Module):
    """Squeeze-and-excitation, a quarter of the channels (Hu et al., CVPR 2018, https://arxiv.org/abs/1709.01507)."""

    def __init__(self, dims: int, channels: int) -> None:
        super().__init__()
        self.squeeze, self.excite = conv(dims)(channels, channels // 4, 1), conv(dims)(channels // 4, channels, 1)

    def forward(self, image: Tensor) -> Tensor:
        """Each channel times its gate."""
        mean = image.mean(tuple(range(2, image.ndim)), keepdim=True)
        gate: Tensor = self.excite(F.relu(self.squeeze(mean))).sigmoid()
        return image * gate


def _stem(dims: int, inputs: int, width: int, norm: NormKind, rs: bool, small: bool) -> nn.Sequential:
    if small:
        return nn.Sequential(_Unit(dims, inputs, width, 3, 1, norm), nn.ReLU())
    if not rs:
        pool = nn.MaxPool3d if dims == 3 else nn.MaxPool2d
        return nn.Sequential(_Unit(dims, inputs, width, 7, 2, norm), nn.ReLU(), pool(3, 2, 1))
    half = width // 2
    units = ((inputs, half, 2), (half, half, 1), (half, width, 1), (width, width, 2))
    layers = [part for a, b, stride in units for part in (_Unit(dims, a, b, 3, stride, norm), nn.ReLU())]
    return nn.Sequential(*layers)


def _shortcut(dims: int, inputs: int, outputs: int, stride: int, norm: NormKind, rs: bool) -> nn.Module:
    if stride == 1 and inputs == outputs:
        return nn.Identity()
    if rs and stride > 1:
        pool = nn.AvgPool3d if dims == 3 else nn.AvgPool2d
        average = pool(stride, stride, ceil_mode=True, count_include_pad=False)
        return nn.Sequential(average, _Unit(dims, inputs, outputs, 1, 1, norm))
    return _Unit(dims, inputs, outputs, 1, stride, norm)


def _initialise(network: ResNet) -> None:
    """Convolutions after He et al.; each block starts as its shortcut (Goyal et al., https://arxiv.org/abs/1706.02677)."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Conv3d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        if isinstance(module, _Basic | _Bottleneck):
            nn.init.zeros_(module.last[1].get_parameter("weight"))
