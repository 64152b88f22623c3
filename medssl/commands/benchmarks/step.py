"""`medssl bench step`: a training step of MAE in 3D beside MONAI's MaskedAutoEncoderViT of the same sizes."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING

from medssl.commands.benchmarks.comparison import Comparison, median_seconds

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class StepSizes:
    """What is trained, on both sides; the defaults are those of the published comparison."""

    side: int = 64
    """Side of the cubic crop in voxels."""

    patch: int = 8
    """Side of a patch in voxels."""

    width: int = 384
    """Embedding width of the encoder."""

    depth: int = 6
    """Blocks of the encoder."""

    heads: int = 12
    """Attention heads of the encoder: MONAI's default, on both sides."""

    decoder_heads: int = 12
    """Attention heads of the decoder: MONAI's default, on both sides. Fewer wide ones suit a CPU better."""

    decoder_width: int = 192
    """Embedding width of the decoder."""

    decoder_depth: int = 2
    """Blocks of the decoder."""

    batch: int = 4
    """Crops a step."""

    mask_ratio: float = 0.75
    """Share of patches hidden."""


def run(rounds: int = 15, threads: int = 0, sizes: StepSizes | None = None) -> list[Comparison]:
    """Steps a second: forward, backward and fused AdamW, both programs in turns, ratio of medians.

    MONAI's network stops with an error under bf16 autocast (it writes bf16 tokens into a float32 tensor), so the bf16
    line compares medssl in bf16 with MONAI in float32, and says so; once it runs, it is compared in bf16. Without a
    processor that has bf16 there is no such line.

    Args:
        rounds: Steps timed.
        threads: Threads of torch; 0 = as they are.
        sizes: What is trained; None = the defaults.
    """
    import torch

    from medssl.training.arithmetic import has_bf16

    sizes = sizes or StepSizes()
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        torch.manual_seed(0)
        image = torch.randn(sizes.batch, 1, sizes.side, sizes.side, sizes.side)
        programs = {
            "ours fp32": _our_step(sizes, image, bf16=False),
            "peer fp32": _peer_step(sizes, image, bf16=False),
        }
        bf16 = has_bf16(image.device)
        if bf16:
            programs["ours bf16"] = _our_step(sizes, image, bf16=True)
            peer_bf16 = _peer_step(sizes, image, bf16=True)
            if _runs(peer_bf16):
                programs["peer bf16"] = peer_bf16
        seconds = median_seconds(programs, rounds)
    finally:
        torch.set_num_threads(before)
    peer = f"MONAI {version('monai')} MaskedAutoEncoderViT"
    lines = [_comparison("mae step 3d fp32", seconds["ours fp32"], seconds["peer fp32"], f"{peer} (fp32)")]
    if bf16:
        against = "peer bf16" if "peer bf16" in programs else "peer fp32"
        note = "bf16" if "peer bf16" in programs else "fp32, as it fails under bf16 autocast"
        lines.append(_comparison("mae step 3d bf16", seconds["ours bf16"], seconds[against], f"{peer} ({note})"))
    return lines


def _comparison(name: str, ours: float, peer: float, peer_name: str) -> Comparison:
    return Comparison(name, "steps/s", 1 / ours, 1 / peer, peer_name, peer / ours)


def _our_step(sizes: StepSizes, image: "Tensor", *, bf16: bool) -> Callable[[], None]:
    import torch

    from medssl.methods.mae import MAE
    from medssl.models.vit import ViT

    method = MAE(
        ViT(3, 1, sizes.patch, sizes.width, sizes.depth, sizes.heads),
        mask_ratio=sizes.mask_ratio,
        decoder=(sizes.decoder_width, sizes.decoder_depth, sizes.decoder_heads),
    )
    step = torch.zeros((), dtype=torch.int64)

    def loss() -> "Tensor":
        step.add_(1)
        value: Tensor = method({"image": image, "step": step})["loss"]
        return value

    return _training_step(method, loss, bf16)


def _peer_step(sizes: StepSizes, image: "Tensor", *, bf16: bool) -> Callable[[], None]:
    from medssl.losses.reconstruction import masked_token_mse, normalise_patches
    from medssl.models.positions import patchify

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.meshgrid", UserWarning)  # it builds its positions with the old call
        network = _peer_network(sizes)

    def loss() -> "Tensor":
        prediction, hidden = network(image)
        target = normalise_patches(patchify(image, (sizes.patch,) * 3), 1e-3)
        return masked_token_mse(prediction, target, hidden.bool())

    return _training_step(network, loss, bf16)


def _peer_network(sizes: StepSizes) -> "nn.Module":
    from monai.networks.nets.masked_autoencoder_vit import MaskedAutoEncoderViT

    network: nn.Module = MaskedAutoEncoderViT(
        in_channels=1,
        img_size=sizes.side,
        patch_size=sizes.patch,
        hidden_size=sizes.width,
        mlp_dim=4 * sizes.width,
        num_layers=sizes.depth,
        num_heads=sizes.heads,
        masking_ratio=sizes.mask_ratio,
        decoder_hidden_size=sizes.decoder_width,
        decoder_mlp_dim=4 * sizes.decoder_width,
        decoder_num_layers=sizes.decoder_depth,
        decoder_num_heads=sizes.decoder_heads,
        spatial_dims=3,
    )
    return network


def _training_step(module: "nn.Module", loss: "Callable[[], Tensor]", bf16: bool) -> Callable[[], None]:
    import torch

    optimiser = torch.optim.AdamW(module.parameters(), lr=1e-4, fused=True)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            value = loss()
        torch.autograd.backward(value)
        optimiser.step()
        optimiser.zero_grad()

    return step


def _runs(program: Callable[[], None]) -> bool:
    try:
        program()
    except RuntimeError:
        return False
    return True
