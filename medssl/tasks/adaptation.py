"""Fine-tuning few of an encoder's weights: low-rank changes (LoRA) or biases alone (BitFit)."""

from collections.abc import Callable
from typing import Literal

from torch import nn

from medssl.imaging.errors import ConfigError, how_to_install
from medssl.models.attention import SigmaLinear

Adaptation = Literal["full", "lora", "bitfit"]


def adapt(encoder: nn.Module, how: Adaptation, lora: tuple[int, int, float] = (16, 16, 0.1)) -> Callable[[], None]:
    """Leave only a part of an encoder's weights to be trained; before any training it computes what it did.

    Both methods are published for transformers, which have no batch norm. Its statistics are held by whoever trains, as
    those of a frozen layer: they are no weights that either method changes.

    Args:
        encoder: Changed in place.
        how: `full`: all weights. `bitfit`: biases (Ben Zaken et al., ACL 2022, https://arxiv.org/abs/2106.10199).
            `lora`: low-rank changes of linear layers and convolutions, and their biases (Hu et al., ICLR 2022,
            https://arxiv.org/abs/2106.09685), by the library peft. Convolutions of one voxel in 3D, which it cannot
            merge, stay frozen.
        lora: Rank, alpha, and share of inputs dropped in training.

    Returns:
        What makes the encoder a plain one again, with the changes merged into its weights.

    Raises:
        ConfigError: peft is not installed, or the encoder has nothing to adapt.
    """
    if how == "full":
        return lambda: None
    if how == "bitfit":
        for name, parameter in encoder.named_parameters():
            parameter.requires_grad_(name.endswith("bias"))
        return lambda: None
    try:
        from peft import LoraConfig  # noqa: PLC0415 (an extra of its own)
        from peft.tuners.lora import LoraModel  # noqa: PLC0415
    except ImportError as error:
        raise ConfigError([f"transfer.adapt lora needs the library peft: {how_to_install('peft')}"]) from error
    layers = [name for name, module in encoder.named_modules() if _fits(module)]
    if not layers:
        raise ConfigError([f"transfer.adapt lora finds no layer in {type(encoder).__name__} that it can change"])
    rank, alpha, dropout = lora
    config = LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=layers, bias="lora_only")
    tuner = LoraModel(encoder, config, "default")

    def merge() -> None:
        bounded = [module for module in encoder.modules() if isinstance(module, SigmaLinear)]
        for layer in bounded:  # the change was learned beside the bounded weight, so it is merged into that one
            layer.settle()
        tuner.merge_and_unload()
        for layer in bounded:
            layer.start()
        encoder.requires_grad_(True)

    return merge


def _fits(module: nn.Module) -> bool:
    if isinstance(module, nn.Conv3d):
        return max(module.kernel_size) > 1 and module.groups == 1
    return isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.groups == 1)
