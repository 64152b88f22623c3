"""I-JEPA: predict the features of blocks of an image from the features of the rest.

Assran et al., "Self-Supervised Learning from Images with a Joint-Embedding Predictive Architecture", CVPR 2023,
https://arxiv.org/abs/2301.08243. Deviations: 2D and 3D; the encoder keeps its class token, which takes part in
attention and is neither predicted nor a target; the context is cut to the batch's shortest at random, not at the end of
the image.
"""

from typing import cast, final

import torch
from torch import Tensor

from medssl.data.masking import step_generator
from medssl.data.target_blocks import context_and_targets
from medssl.losses.reconstruction import latent_regression
from medssl.methods.base import Batch, Method, MethodCard, expect, positive, require, share
from medssl.models.encoder import Encoder
from medssl.models.momentum import Teacher
from medssl.models.positions import pick
from medssl.models.token_decoder import TokenDecoder
from medssl.models.vit import ViT


@final
class IJEPA(Method):
    """Latent prediction: no views, no voxels, a slowly moving teacher.

    Args:
        encoder: A `ViT`.
        steps: Steps of the run, over which the momentum rises to 1.
        seed: Seed of the blocks.
        predictor: Width, blocks and attention heads of the predictor (384, 12 and the encoder's heads in the paper).
        targets: Blocks to predict in each image.
        target_scale: Share of the patches of a block, lowest and highest.
        context_scale: Share of the patches of the context before blocks are taken out, lowest and highest.
        momentum: Of the teacher at the start; rises to 1 along a line.

    Raises:
        ConfigError: The encoder is no ViT, or the numbers do not fit.
    """

    card = MethodCard("Assran et al., CVPR 2023", "https://arxiv.org/abs/2301.08243", "masked", ("ViT",))

    def __init__(
        self,
        encoder: Encoder,
        *,
        steps: int,
        seed: int = 0,
        predictor: tuple[int, int, int] = (192, 4, 3),
        targets: int = 4,
        target_scale: tuple[float, float] = (0.15, 0.2),
        context_scale: tuple[float, float] = (0.85, 1.0),
        momentum: float = 0.996,
    ) -> None:
        super().__init__()
        vit = expect(encoder, ViT, "ijepa")
        problems = share(momentum=momentum) + positive(targets=targets)
        for name, (low, high) in {"target_scale": target_scale, "context_scale": context_scale}.items():
            if not 0 < low <= high <= 1:
                problems.append(f"{name} must rise between 0 and 1, got {(low, high)}")
        require(problems)
        self._vit, self.steps, self.seed, self.momentum = vit, steps, seed, momentum
        self.targets, self.target_scale, self.context_scale = targets, target_scale, context_scale
        self.teacher = Teacher(vit)
        self.predictor = TokenDecoder(vit.width, predictor, vit.width)

    @property
    def encoder(self) -> Encoder:
        """The encoder of the context."""
        return self._vit

    def encoder_state_dict(self) -> dict[str, Tensor]:
        """The teacher's encoder, as the authors evaluate it."""
        return self.teacher.network.state_dict()

    def other_encoder(self) -> dict[str, dict[str, Tensor]]:
        """That of the context."""
        return {"student": self._vit.state_dict()}

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """`loss`: smooth L1 between predicted and normalised features of the blocks."""
        image = batch["image"]
        context, blocks = self._draw(image, int(batch["step"]))
        wanted = self._features(image)  # (B, N, E)
        target = torch.stack([pick(wanted, blocks[:, number]) for number in range(blocks.shape[1])], dim=1)
        return {"loss": latent_regression(self._predict(image, context, blocks), target)}

    def after_step(self, step: int) -> None:
        """The teacher follows."""
        progress = min((step - 1) / max(self.steps, 1), 1.0)
        self.teacher.follow(self._vit, self.momentum + (1 - self.momentum) * progress)

    def _draw(self, image: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """Patches of the context (B, n) and of the blocks (B, T, m)."""
        context, blocks = context_and_targets(
            self._vit.grid(image.shape[2:]),
            image.shape[0],
            step_generator(self.seed, step),
            targets=self.targets,
            target_scale=self.target_scale,
            context_scale=self.context_scale,
        )
        return context.to(image.device), blocks.to(image.device)

    @torch.no_grad()
    def _features(self, image: Tensor) -> Tensor:
        """The teacher's patch features (B, N, E) of the whole image."""
        teacher = cast(ViT, self.teacher.network)
        return teacher.encode(image, None)[:, teacher.tokens.shape[1] :]

    def _predict(self, image: Tensor, context: Tensor, blocks: Tensor) -> Tensor:
        """Features (B, T, m, E) of each block, each block predicted on its own."""
        batch, count, size = blocks.shape
        tokens = self._vit.encode(image, context)[:, self._vit.tokens.shape[1] :]  # (B, n, E)
        tokens, seen = (part.repeat_interleave(count, dim=0) for part in (tokens, context))  # (B * T, n, ...)
        grid = self._vit.grid(image.shape[2:])
        predicted: Tensor = self.predictor(tokens, grid, seen, blocks.flatten(0, 1))
        return predicted.view(batch, count, size, -1)
