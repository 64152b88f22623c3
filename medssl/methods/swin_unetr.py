"""Swin UNETR's pretraining: paint what was cut out, tell how a crop was turned, recognise it among the batch.

Tang et al., "Self-Supervised Pre-Training of Swin Transformers for 3D Medical Image Analysis", CVPR 2022,
https://arxiv.org/abs/2111.14791, as the authors released it. Deviations: 2D and 3D; any encoder; noise has the range of
the crop; what is pasted comes from a clean crop; other crops of one's own patient are no negatives unless asked for.
"""

from typing import Literal, final

import torch
import torch.nn.functional as F  # noqa: N812 (the usual name)
from torch import Tensor, nn

from medssl.data.cutouts import cut_out, draw_cutouts
from medssl.data.masking import step_generator
from medssl.data.spatial import quarter_turned
from medssl.imaging.errors import ConfigError
from medssl.losses.contrastive import nt_xent
from medssl.losses.weighting import automatic_weighting
from medssl.methods.base import Batch, Method, MethodCard, positive, require, share
from medssl.models.bottleneck_decoders import BottleneckDecoder
from medssl.models.encoder import Encoder

_VIEWS = 2
_TASKS = ("rotation", "contrast", "reconstruction")


@final
class SwinUNETRPretraining(Method):
    """Three tasks on two corrupted copies of each crop.

    Args:
        encoder: Any encoder; `SwinV2` with a last stage of 0 blocks is nearest to the paper's.
        seed: Seed of turns and cut-outs.
        weighting: `equal`: the three losses are added up; `automatic`: by learned uncertainties, as in CSwin UNet (Li
            et al., Medical Physics 2025, https://arxiv.org/abs/2305.00385).
        descriptor: What rotation and contrast are read from: the first and the second position of the coarsest map
            (`corner`, the authors' code), or its `mean` for both.
        cutouts: Largest share of a crop that noise replaces, and likewise another crop; shortest and longest side of a
            box, relative to the crop's.
        temperature: Divides the cosines.
        width: Width of the embedding that is contrasted.
        same_patient: Whether other crops of one's own patient are negatives, as in the paper.

    Raises:
        ConfigError: The numbers do not fit.
    """

    card = MethodCard("Tang et al., CVPR 2022", "https://arxiv.org/abs/2111.14791", "masked")
    over_batch = True
    least_batch = 2

    def __init__(
        self,
        encoder: Encoder,
        *,
        seed: int = 0,
        weighting: Literal["equal", "automatic"] = "equal",
        descriptor: Literal["corner", "mean"] = "corner",
        cutouts: tuple[float, float, float] = (0.3, 0.05, 0.25),
        temperature: float = 0.5,
        width: int = 512,
        same_patient: bool = False,
    ) -> None:
        super().__init__()
        most, shortest, longest = cutouts
        problems = positive(temperature=temperature, width=width) + share(cutouts=most)
        if not 0 < shortest <= longest <= 1:
            problems.append(f"the sides of cutouts must rise between 0 and 1, got {(shortest, longest)}")
        if weighting not in ("equal", "automatic"):
            problems.append(f"weighting must be equal or automatic, got {weighting!r}")
        if descriptor not in ("corner", "mean"):
            problems.append(f"descriptor must be corner or mean, got {descriptor!r}")
        require(problems)
        self._encoder, self.seed, self.corner = encoder, seed, descriptor == "corner"
        self.most, self.sides = most, (shortest, longest)
        self.temperature, self.same_patient = temperature, same_patient
        self.least_patients = 1 if same_patient else 2
        features = encoder.feature_channels[-1]
        self.compass, self.projector = nn.Linear(features, 4), nn.Linear(features, width)
        self.painter = BottleneckDecoder(encoder, encoder.in_channels)
        self.sigma = nn.Parameter(torch.ones(len(_TASKS))) if weighting == "automatic" else None

    @property
    def encoder(self) -> Encoder:
        """The encoder; all heads are thrown away."""
        return self._encoder

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """`loss`: the three losses added up or weighted, and each of them under its name."""
        image = batch["image"]
        clean, spoilt, turns = self._draw(image, int(batch["step"]))
        pyramid = self._encoder(spoilt)
        guess, vectors = self._read(pyramid[-1])
        first, second = vectors.chunk(_VIEWS)
        turns = turns.to(image.device)
        terms = torch.stack(
            [
                F.cross_entropy(guess.float(), turns),
                nt_xent(first, second, self.temperature, None if self.same_patient else batch["patient"]),
                F.l1_loss(self.painter(spoilt, pyramid).float(), clean.float()),
            ]
        )
        loss = terms.sum() if self.sigma is None else automatic_weighting(terms, self.sigma)
        right = (guess.argmax(1) == turns).float().mean()
        return {"loss": loss, **dict(zip(_TASKS, terms.detach(), strict=True)), "rotation_accuracy": right}

    @torch.no_grad()
    def reconstruction(self, batch: Batch) -> dict[str, Tensor]:
        """The first copy of each crop: turned, with its cut-outs, and as it was painted."""
        clean, spoilt, _ = self._draw(batch["image"], int(batch["step"]))
        count = len(batch["image"])
        shown = spoilt[:count]
        painted = self.painter(shown, self._encoder(shown)).float()
        return {"input": clean[:count].float(), "masked": shown.float(), "reconstructed": painted}

    def _draw(self, image: Tensor, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """Both copies of all crops (2 B, C, *S), turned; the same with cut-outs; quarter turns (2 B,) on the CPU."""
        shape = tuple(image.shape[2:])
        if shape[-1] != shape[-2]:
            raise ConfigError([f"crops are turned in the plane of the last two axes, which must be alike, got {shape}"])
        generator = step_generator(self.seed, step)
        turns = torch.randint(4, (_VIEWS, len(image)), generator=generator)
        clean, spoilt = [], []
        for quarters in turns:
            turned = quarter_turned(image, quarters, (-2, -1))
            clean.append(turned)
            spoilt.append(cut_out(turned, draw_cutouts(shape, len(image), self.most, self.sides, generator)))
        return torch.cat(clean), torch.cat(spoilt), turns.flatten()

    def _read(self, last: Tensor) -> tuple[Tensor, Tensor]:
        """Guesses of the turn (2 B, 4) and embeddings (2 B, width) from the coarsest map."""
        tokens = last.flatten(2)
        if tokens.shape[2] < 2:
            raise ConfigError(["the encoder leaves one position of a crop: use larger crops or fewer stages"])
        about_turn, about_crop = (tokens[..., 0], tokens[..., 1]) if self.corner else (tokens.mean(2),) * 2
        return self.compass(about_turn), self.projector(about_crop)
