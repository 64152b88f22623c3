"""A 3D encoder made of a 2D one: slices are encoded one by one, then they look at one another."""

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 (the usual name)
from torch import Tensor, nn

from medssl.imaging.errors import ConfigError
from medssl.models.attention import TransformerBlock
from medssl.models.component import Component
from medssl.models.encoder import Encoder, MixedEncoder
from medssl.models.networks import build_encoder
from medssl.models.positions import sincos_positions


class SliceEncoder(Encoder, MixedEncoder):
    """A 2D encoder for the slices of a volume, and a transformer over the sequence of slices.

    Of Nguyen et al., AAAI 2023, https://arxiv.org/abs/2212.01893. Slices lie along the last axis: axial ones in
    prepared arrays. Deviations: any 2D encoder; plain attention across slices with fixed positions and without dropout,
    where the authors have deformable attention, in their code along the features.

    Args:
        spatial_dims: 3; as a mixed encoder it takes 2D images as well, as volumes of one slice.
        in_channels: Channels of the images.
        slices: `class_path` and `init_args` of the 2D encoder, one of medssl's own.
        sequence: Width E, blocks and attention heads of the transformer over slices.

    Raises:
        ConfigError: Not for 3D, width and heads do not fit, or the 2D encoder cannot be built.
    """

    def __init__(
        self, spatial_dims: int, in_channels: int, slices: dict[str, Any], sequence: tuple[int, int, int] = (640, 4, 8)
    ) -> None:
        super().__init__()
        width, depth, heads = sequence
        problems = [] if spatial_dims == 3 else [f"SliceEncoder is a 3D encoder, the data is {spatial_dims}D"]
        if min(sequence) < 1 or width % heads or width < 2:
            problems.append(f"sequence: width {width} must be divisible by heads {heads}, got {tuple(sequence)}")
        if problems or not isinstance(slices, dict) or "class_path" not in slices:
            raise ConfigError(problems or ["slices needs class_path, and init_args, of a 2D encoder"])
        self.spatial_dims, self.in_channels, self.width = spatial_dims, in_channels, width
        part = Component(str(slices["class_path"]), dict(slices.get("init_args") or {}))
        built = build_encoder(part, 2, in_channels, trusted_only=True)
        if not isinstance(built, Encoder):
            raise ConfigError([f"slices: {part.class_path} is no encoder"])
        self.slices = built
        self._part, self._sequence = part, list(sequence)
        widths = built.feature_channels
        self.vector_width = sum(widths) + widths[-1]
        self.project = nn.Linear(self.vector_width, width)
        self.mixing = nn.ModuleList(TransformerBlock(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.feature_channels = (*widths[:-1], widths[-1] + width)
        self.strides = tuple((*stride, 1) for stride in built.strides)

    def plain(self, spatial_dims: int) -> Encoder:
        """The encoder of slices, or this one."""
        return self if spatial_dims == 3 else self.slices

    def description(self, spatial_dims: int) -> Component:
        """Class and arguments that build it."""
        facts = {"spatial_dims": spatial_dims, "in_channels": self.in_channels}
        if spatial_dims == 3:
            arguments = {**facts, "slices": self._part.to_json(), "sequence": self._sequence}
            return Component(f"{__name__}.{type(self).__qualname__}", arguments)
        return Component(self._part.class_path, {**self._part.init_args, **facts})

    def forward(self, image: Tensor) -> list[Tensor]:
        """The 2D encoder's maps, slice beside slice; the coarsest one has the slice's place in the sequence as well."""
        maps = self._maps(image)
        tokens = self.sequence(self._vectors(maps)).transpose(1, 2)  # (B, E, n)
        stacked = [level.movedim(1, -1) for level in maps]  # (B, F, h, w, n)
        wide = tokens[:, :, None, None].expand(-1, -1, *stacked[-1].shape[2:4], -1)
        stacked[-1] = torch.cat([stacked[-1], wide.to(stacked[-1].dtype)], dim=1)
        return stacked

    def embed(self, image: Tensor) -> Tensor:
        """Mean over slices of their last map's mean and of the sequence: (B, F + E); a 2D image is one slice."""
        maps = self._maps(image if image.ndim == 5 else image[..., None])
        pooled, tokens = maps[-1].flatten(3).mean(-1).mean(1), self.sequence(self._vectors(maps)).mean(1)
        return torch.cat([pooled, tokens.to(pooled.dtype)], dim=1)

    def vectors(self, image: Tensor) -> Tensor:
        """What stands for each slice (B, n, P): the mean of each map at unit length, and that of the last as it is."""
        return self._vectors(self._maps(image))

    def sequence(self, vectors: Tensor, fill: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """Slices that have looked at one another (B, n, E).

        Args:
            vectors: (B, n, P).
            fill: Which slices are hidden (B, n) bool, and the token (1, 1, E) that takes their place.
        """
        tokens: Tensor = self.project(vectors)
        if fill is not None:
            tokens = torch.where(fill[0][..., None], fill[1].to(tokens.dtype), tokens)
        tokens = tokens + sincos_positions([vectors.shape[1]], self.width).to(tokens)
        for block in self.mixing:
            tokens = block(tokens)
        out: Tensor = self.norm(tokens)
        return out

    def _maps(self, volume: Tensor) -> list[Tensor]:
        """Maps (B, n, F, h, w) of each slice of (B, C, H, W, n)."""
        flat = volume.movedim(-1, 1).flatten(0, 1)
        return [level.unflatten(0, (-1, volume.shape[-1])) for level in self.slices(flat)]

    @staticmethod
    def _vectors(maps: list[Tensor]) -> Tensor:
        means = [level.flatten(3).mean(-1) for level in maps]
        return torch.cat([*(F.normalize(mean.float(), dim=-1) for mean in means), means[-1].float()], dim=-1)
