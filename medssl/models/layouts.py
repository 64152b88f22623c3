"""What the tensors of an encoder are called in other libraries' modules that compute the same, and how they lie there.

A layout is offered only where the numbers that come out are the same; whatever has no such module is refused with the
reason. The tests load each into the library's own module and compare.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from medssl.imaging.errors import ConfigError
from medssl.models.encoder import Encoder
from medssl.models.positions import sincos_positions
from medssl.models.resnet import ResNet
from medssl.models.swin import SwinV2
from medssl.models.unet import ResidualUNetEncoder
from medssl.models.vit import ViT
from medssl.models.window_attention import Windows

Library = Literal["monai", "timm", "nnunet", "torch"]
LIBRARIES: tuple[Library, ...] = ("monai", "timm", "nnunet", "torch")


def _same(tensor: Tensor) -> Tensor:
    return tensor


@dataclass(frozen=True)
class Entry:
    """One tensor here and there.

    Args:
        ours: Its name in the encoder.
        theirs: Its name in the other module.
        there: Makes theirs of ours.
        back: Makes ours of theirs.
    """

    ours: str
    theirs: str
    there: Callable[[Tensor], Tensor] = _same
    back: Callable[[Tensor], Tensor] = _same


@dataclass(frozen=True)
class Layout:
    """How an encoder is written for another library.

    Args:
        entries: Its tensors.
        extra: Tensors of the other module that are fixed or absent here.
        build: Python that makes the other module as `module`.
        features: Python that makes the last features of `image` with it, as `features`.
        twice: Further names under which the other module has a tensor, with its first one.
        idle: Of `extra`, those on which nothing that the module computes depends.
        joined: Tensors here that are several there, one after the other along axis 1: each with its length.
        stacked: Tensors there that are several here, one after the other along axis 0, each of the same length.
        shifts: Biases there that are none here, with the running mean of the batch norm behind, which takes them in.
        implied: Tensors that the other module may be built without, with those that it then computes as with.
        fresh: Tensors that it may be built without, too; what they hold starts fresh here, and features differ.
        aliases: Names that a sibling of the module has for some of its tensors, with the module's own.
        positions: Its table (1, N, E) of added positions, which are fixed here; empty = it adds none.
    """

    entries: tuple[Entry, ...]
    extra: dict[str, Tensor]
    build: str
    features: str
    twice: tuple[tuple[str, str], ...] = ()
    idle: tuple[str, ...] = ()
    joined: tuple[tuple[str, tuple[tuple[str, int], ...]], ...] = ()
    stacked: tuple[tuple[str, tuple[str, ...]], ...] = ()
    shifts: tuple[tuple[str, str], ...] = ()
    implied: dict[str, Tensor] = field(default_factory=dict)
    fresh: tuple[str, ...] = ()
    aliases: tuple[tuple[str, str], ...] = ()
    positions: str = ""

    def there(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Tensors of the encoder under the other module's names."""
        named = {entry.theirs: entry.there(state[entry.ours]) for entry in self.entries} | self.extra
        for ours, parts in self.joined:
            split = torch.split(state[ours], [length for _, length in parts], dim=1)
            named |= {theirs: tensor for (theirs, _), tensor in zip(parts, split, strict=True)}
        named |= {theirs: torch.cat([state[ours] for ours in parts]) for theirs, parts in self.stacked}
        return named | {further: named[first] for further, first in self.twice}

    def back(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """All tensors of the other module that have a place here, under the encoder's names."""
        state, absent = self.implied | state, set(self.fresh) - set(state)
        own = {entry.ours: entry.back(state[entry.theirs]) for entry in self.entries if entry.theirs not in absent}
        own |= {ours: torch.cat([state[theirs] for theirs, _ in parts], dim=1) for ours, parts in self.joined}
        for theirs, names in self.stacked:
            own |= dict(zip(names, torch.tensor_split(state[theirs], len(names)), strict=True))
        return own | {mean: own[mean] - state[bias] for bias, mean in self.shifts if bias in state}

    @property
    def names(self) -> dict[str, tuple[str, ...]]:
        """Each name of the encoder with those of the tensors there that hold it, whole or in part."""
        told: dict[str, tuple[str, ...]] = {entry.ours: (entry.theirs,) for entry in self.entries}
        told |= {ours: tuple(theirs for theirs, _ in parts) for ours, parts in self.joined}
        return told | {ours: (theirs,) for theirs, parts in self.stacked for ours in parts}

    @property
    def needed(self) -> list[str]:
        """Names there without which the encoder is not whole."""
        named = dict.fromkeys(theirs for places in self.names.values() for theirs in places)
        return [theirs for theirs in named if theirs not in self.implied and theirs not in self.fresh]

    @property
    def spare(self) -> list[str]:
        """Names there that have a place here and may be missing."""
        return [*self.implied, *self.fresh]

    @property
    def known(self) -> set[str]:
        """Names there that have a place here, or that change nothing."""
        further = [*(name for name, _ in self.twice), *(bias for bias, _ in self.shifts)]
        return {*self.needed, *self.spare, *self.idle, *further}


def layout_of(encoder: nn.Module, library: Library, size: Sequence[int]) -> Layout:
    """The layout of an encoder in a library.

    Args:
        encoder: The encoder.
        library: `torch` is the plain state dict.
        size: Voxels of the images that the other module will see, where it wants to know them.

    Raises:
        ConfigError: The library has no module that computes the same, with the reason.
    """
    if library == "torch":
        names = tuple(Entry(name, name) for name in encoder.state_dict())
        return Layout(names, {}, "# build the encoder as its description says", "features = module.embed(image)")
    makers: dict[tuple[type, Library], Callable[..., Layout]] = {
        (ViT, "monai"): _vit_in_monai,
        (ViT, "timm"): _vit_in_timm,
        (ResNet, "monai"): _resnet_in_monai,
        (ResNet, "timm"): _resnet_in_timm,
        (SwinV2, "timm"): _swin_in_timm,
        (ResidualUNetEncoder, "nnunet"): _unet_in_nnunet,
    }
    make = makers.get((type(encoder), library))
    if make is None:
        able = sorted(name for kind, name in makers if isinstance(encoder, kind))
        others = f"it can be written for {', '.join(able)} and torch" if able else "it can be written for torch only"
        raise ConfigError([f"{type(encoder).__name__} cannot be written for {library}; {others}"])
    return make(encoder, size)


def fitting_size(encoder: Encoder) -> list[int]:
    """Voxels of an image that the encoder takes without filling, for layouts of which the names alone matter."""
    cells = encoder.window if isinstance(encoder, SwinV2) else [2] * encoder.spatial_dims
    return [n * max(step) for n, step in zip(cells, zip(*encoder.strides, strict=True), strict=True)]


def _refuse(problems: Sequence[str | bool]) -> None:
    told = [problem for problem in problems if isinstance(problem, str)]
    if told:
        raise ConfigError(told)


def _pairs(prefix: str, there: str, names: Sequence[tuple[str, str]], parts: Sequence[str]) -> list[Entry]:
    return [Entry(f"{prefix}{a}.{part}", f"{there}{b}.{part}") for a, b in names for part in parts]


def _patches(vit: ViT, theirs: str) -> list[Entry]:
    """The embedding of patches: a linear layer over voxels with channels last here, a convolution there."""
    shape = (vit.width, *vit.patch_size, vit.in_channels)
    weight = Entry(
        "patch_embed.weight",
        f"{theirs}.weight",
        lambda tensor: tensor.view(shape).movedim(-1, 1).contiguous(),
        lambda tensor: tensor.movedim(1, -1).flatten(1),
    )
    return [weight, Entry("patch_embed.bias", f"{theirs}.bias")]


def _plain(vit: ViT, registers: bool) -> list[str | bool]:
    bounded = any("gamma" in name for name in vit.state_dict())
    return [
        vit.rotary and "its positions turn queries and keys (attention rope), and the other module adds positions",
        bounded and "its weights are bounded by sigma-reparam (attention sigma), and the other module's are not",
        vit.tokens.shape[1] > 1 and not registers and "it has registers, and the other module has none",
    ]


def _unbiased(vit: ViT) -> dict[str, Tensor]:
    """What biases of queries, keys and values are where there are none (`qkv_bias=False`, MONAI's default)."""
    return {f"blocks.{n}.attn.qkv.bias": torch.zeros(3 * vit.width) for n in range(len(vit.blocks))}


def _vit_in_monai(vit: ViT, size: Sequence[int]) -> Layout:
    _refuse(_plain(vit, registers=False))
    names = [("norm1", "norm1"), ("norm2", "norm2"), ("qkv", "attn.qkv"), ("proj", "attn.out_proj")]
    names += [("fc1", "mlp.linear1"), ("fc2", "mlp.linear2")]
    entries = [Entry("tokens", "cls_token"), *_patches(vit, "patch_embedding.patch_embeddings")]
    for n in range(len(vit.blocks)):
        entries += _pairs(f"blocks.{n}.", f"blocks.{n}.", names, ("weight", "bias"))
    entries += _pairs("", "", (("norm", "norm"),), ("weight", "bias"))
    build = (
        "import torch\nfrom monai.networks.nets import ViT\n"
        f"module = ViT({vit.in_channels}, {list(size)}, {list(vit.patch_size)}, {vit.width}, {4 * vit.width}, "
        f"{len(vit.blocks)}, {vit.heads}, classification=True, spatial_dims={vit.spatial_dims}, qkv_bias=True)\n"
        "del module.classification_head\n"
        "for part in module.modules():\n"
        "    if isinstance(part, torch.nn.LayerNorm):\n        part.eps = 1e-6\n"
    )
    positions = "patch_embedding.position_embeddings"
    extra = {positions: sincos_positions(vit.grid(size), vit.width)[None]}
    for n in range(len(vit.blocks)):  # MONAI keeps the norm of an attention that is not there
        extra |= {f"blocks.{n}.norm_cross_attn.weight": torch.ones(vit.width)}
        extra |= {f"blocks.{n}.norm_cross_attn.bias": torch.zeros(vit.width)}
    features = "features = module(image)[0][:, 1:].mean(1)"
    return Layout(
        tuple(entries),
        extra,
        build,
        features,
        idle=tuple(name for name in extra if name != positions),
        implied=_unbiased(vit),
        fresh=("cls_token",),
        aliases=tuple((f"blocks.{len(vit.blocks)}.{part}", f"norm.{part}") for part in ("weight", "bias")),
        positions=positions,  # aliases: MaskedAutoEncoderViT has its norm behind the blocks, in one list
    )


def _vit_in_timm(vit: ViT, size: Sequence[int]) -> Layout:
    _refuse(
        [vit.spatial_dims != 2 and "timm's vision transformers are 2D, this one is 3D", *_plain(vit, registers=True)]
    )
    names = [("norm1", "norm1"), ("norm2", "norm2"), ("qkv", "attn.qkv"), ("proj", "attn.proj")]
    names += [("fc1", "mlp.fc1"), ("fc2", "mlp.fc2")]
    registers = vit.tokens.shape[1] - 1
    entries = _patches(vit, "patch_embed.proj")
    for n in range(len(vit.blocks)):
        entries += _pairs(f"blocks.{n}.", f"blocks.{n}.", names, ("weight", "bias"))
    entries += _pairs("", "", (("norm", "norm"),), ("weight", "bias"))
    joined = (("tokens", (("cls_token", 1), ("reg_token", registers))),) if registers else ()
    entries += [] if registers else [Entry("tokens", "cls_token")]
    extra = {"pos_embed": sincos_positions(vit.grid(size), vit.width)[None]}
    build = (
        "from timm.models.vision_transformer import VisionTransformer\n"
        f"module = VisionTransformer({tuple(size)}, {vit.patch_size}, {vit.in_channels}, 0, embed_dim={vit.width}, "
        f"depth={len(vit.blocks)}, num_heads={vit.heads}, reg_tokens={registers}, no_embed_class=True)\n"
    )
    features = f"features = module.forward_features(image)[:, {1 + registers}:].mean(1)"
    return Layout(
        tuple(entries),
        extra,
        build,
        features,
        joined=joined,
        implied=_unbiased(vit),
        fresh=() if registers else ("cls_token",),
        positions="pos_embed",
    )


def _expansion(resnet: ResNet) -> int:
    """Channels of a stage for each of its width: 4 with bottlenecks."""
    network: Any = resnet
    return 4 if hasattr(network.stages[0][0], "middle") else 1


def _resnet_parts(resnet: ResNet) -> tuple[list[Entry], list[int]]:
    """Entries with the names that torchvision gave to all, and the number of blocks of each stage."""
    network: Any = resnet
    stem, bottleneck = network.stem[0], _expansion(resnet) > 1
    _refuse(
        [
            stem[0].kernel_size[0] != 7 and "its stem is not that of He et al. (options small or rs)",
            stem[1].kind != "batch" and f"its norm is {stem[1].kind}, the other module's is batch",
        ]
    )
    norm = ("weight", "bias", "running_mean", "running_var")
    entries = [Entry("stem.0.0.weight", "conv1.weight"), *_pairs("", "", (("stem.0.1", "bn1"),), norm)]
    units = ("first", "middle", "last") if bottleneck else ("first", "last")
    for level, stage in enumerate(network.stages):
        for n, block in enumerate(stage):
            own, other = f"stages.{level}.{n}.", f"layer{level + 1}.{n}."
            for number, unit in enumerate(units, start=1):
                entries.append(Entry(f"{own}{unit}.0.weight", f"{other}conv{number}.weight"))
                entries += _pairs(own, other, ((f"{unit}.1", f"bn{number}"),), norm)
            if not isinstance(block.shortcut, nn.Identity):
                entries.append(Entry(f"{own}shortcut.0.weight", f"{other}downsample.0.weight"))
                entries += _pairs(own, other, (("shortcut.1", "downsample.1"),), norm)
    return entries, [len(stage) for stage in network.stages]


def _counters(entries: Sequence[Entry]) -> dict[str, Tensor]:
    """Batch norms there count their batches; nothing depends on it."""
    named = [entry.theirs for entry in entries if entry.theirs.endswith("running_mean")]
    return {name.replace("running_mean", "num_batches_tracked"): torch.tensor(0) for name in named}


def _resnet_in_monai(resnet: ResNet, size: Sequence[int]) -> Layout:
    entries, counts = _resnet_parts(resnet)
    expansion = _expansion(resnet)
    widths = [channels // expansion for channels in resnet.feature_channels]
    build = (
        "from monai.networks.nets import ResNet\n"
        f"module = ResNet('{'bottleneck' if expansion > 1 else 'basic'}', {counts}, {widths}, "
        f"spatial_dims={resnet.spatial_dims}, n_input_channels={resnet.in_channels}, conv1_t_size=7, conv1_t_stride=2, "
        "feed_forward=False, bias_downsample=False)\n"
    )
    return _resnet_layout(entries, build)


def _resnet_in_timm(resnet: ResNet, size: Sequence[int]) -> Layout:
    expansion = _expansion(resnet)
    width = resnet.feature_channels[0] // expansion
    _refuse(
        [
            resnet.spatial_dims != 2 and "timm's residual networks are 2D, this one is 3D",
            width != 64 and f"timm's first stage has 64 channels, this one {width}",
        ]
    )
    entries, counts = _resnet_parts(resnet)
    kind = "Bottleneck" if expansion > 1 else "BasicBlock"
    build = (
        f"from timm.models.resnet import {kind}, ResNet\n"
        f"module = ResNet({kind}, {tuple(counts)}, num_classes=0, in_chans={resnet.in_channels})\n"
    )
    return _resnet_layout(entries, build)


def _resnet_layout(entries: list[Entry], build: str) -> Layout:
    counters = _counters(entries)
    shifts = tuple(
        (entry.theirs.replace("weight", "bias"), entry.ours.replace("0.weight", "1.running_mean"))
        for entry in entries
        if entry.theirs.endswith("downsample.0.weight")
    )
    return Layout(tuple(entries), counters, build, "features = module(image)", idle=tuple(counters), shifts=shifts)


def _swin_in_timm(swin: SwinV2, size: Sequence[int]) -> Layout:
    _refuse([swin.spatial_dims != 2 and "timm's Swin transformers are 2D, this one is 3D"])
    network: Any = swin
    names = [("norm1", "norm1"), ("norm2", "norm2"), ("fc1", "mlp.fc1"), ("fc2", "mlp.fc2")]
    names += [("attention.proj", "attn.proj"), ("attention.position.0", "attn.cpb_mlp.0")]
    both = ("weight", "bias")
    entries = _pairs("patch_embed.", "patch_embed.", (("embed", "proj"), ("norm", "norm")), both)
    stacked = []
    for level, stage in enumerate(network.stages):
        if stage.merge is not None:
            own, other = f"stages.{level}.merge.", f"layers.{level}.downsample."
            entries.append(Entry(f"{own}reduce.weight", f"{other}reduction.weight", _other_order, _other_order))
            entries += _pairs(own, other, (("norm", "norm"),), both)
        for n in range(len(stage.blocks)):
            own, other = f"stages.{level}.blocks.{n}.", f"layers.{level}.blocks.{n}."
            entries += _pairs(own, other, names, both)
            own, other = f"{own}attention.", f"{other}attn."
            entries.append(Entry(f"{own}position.2.weight", f"{other}cpb_mlp.2.weight"))
            entries.append(Entry(f"{own}log_scale", f"{other}logit_scale", lambda t: t.view(-1, 1, 1), Tensor.flatten))
            entries += [Entry(f"{own}{part}.bias", f"{other}{part[0]}_bias") for part in ("query", "value")]
            stacked.append((f"{other}qkv.weight", tuple(f"{own}{part}.weight" for part in ("query", "key", "value"))))
    entries += _pairs("", "", (("norm", "norm"),), both)
    return Layout(tuple(entries), {}, _timm_swin(swin, size), "features = module(image)", stacked=tuple(stacked))


def _other_order(weight: Tensor) -> Tensor:
    """Of four neighbours, timm merges those below each other first, this package those beside each other."""
    return weight.reshape(len(weight), 2, 2, -1).transpose(1, 2).flatten(1)


def _timm_swin(swin: SwinV2, size: Sequence[int]) -> str:
    """Python that makes timm's module; refuses a size at which it would see what fills windows up."""
    network: Any = swin
    grids = [[n // 2**level for n in swin.grid(size)] for level in range(len(network.stages))]
    _refuse(
        [
            f"images of {tuple(size)} are {tuple(grid)} patches in stage {level}, which windows of {swin.window} do "
            "not divide: what fills them up is seen in timm's module and hidden here; choose another size"
            for level, grid in enumerate(grids, start=1)
            if Windows.over(grid, swin.window, shifted=False).filled != tuple(grid)
        ]
    )
    attention = [stage.blocks[0].attention if len(stage.blocks) else None for stage in network.stages]
    heads = tuple(part.heads if part else 1 for part in attention)
    reach = tuple(part.reach if part else swin.window for part in attention)
    return (  # timm's mask takes 100 from the logits of tokens that are apart, which sharp attention outdoes
        "import torch\nfrom timm.models.swin_transformer_v2 import SwinTransformerV2\n"
        f"module = SwinTransformerV2({tuple(size)}, {swin.patch_size}, {swin.in_channels}, 0, embed_dim={swin.width}, "
        f"depths={tuple(len(stage.blocks) for stage in network.stages)}, num_heads={heads}, "
        f"window_size={swin.window}, pretrained_window_sizes={reach})\n"
        "for part in module.modules():\n"
        "    if getattr(part, 'attn_mask', None) is not None:\n"
        "        part.attn_mask[part.attn_mask < 0] = -torch.inf\n"
    )


def _unet_in_nnunet(unet: ResidualUNetEncoder, size: Sequence[int]) -> Layout:
    network: Any = unet
    counts = [len(stage) for stage in network.stages]
    _refuse(
        [
            unet.shortcut != "pooled"
            and "its shortcuts do not average before they project: pretrain with shortcut pooled",
            unet.norm != "instance" and f"its norm is {unet.norm}, nnU-Net's is instance",
            counts[0] < 1 and "its first level has no residual block, nnU-Net's has",
        ]
    )
    entries: list[Entry] = []

    def unit(ours: str, theirs: str, conv: str = "conv", norm: str = "norm") -> None:
        entries.append(Entry(f"{ours}{conv}.weight", f"{theirs}.conv.weight"))
        entries.extend(_pairs("", "", ((f"{ours}{norm}", f"{theirs}.norm"),), ("weight", "bias")))

    unit("stem.", "stem.convs.0")
    for level, stage in enumerate(network.stages):
        for n, block in enumerate(stage):
            own, other = f"stages.{level}.{n}.", f"stages.{level}.blocks.{n}"
            unit(f"{own}first.", f"{other}.conv1")
            unit(own, f"{other}.conv2")
            if hasattr(block.shortcut, "conv"):  # where the channels change; elsewhere its means have no weights
                pooled = max(unet.steps[level]) > 1
                unit(f"{own}shortcut.", f"{other}.skip.{int(pooled)}")
    extra = {
        entry.theirs.replace(".weight", ".bias"): torch.zeros(len(unet.get_parameter(entry.ours)))
        for entry in entries
        if entry.theirs.endswith("conv.weight") and ".skip." not in entry.theirs
    }
    dims = unet.spatial_dims
    build = (
        "import torch\nfrom dynamic_network_architectures.building_blocks.residual_encoders import ResidualEncoder\n"
        f"module = ResidualEncoder({unet.in_channels}, {len(counts)}, {list(unet.feature_channels)}, "
        f"torch.nn.Conv{dims}d, 3, {[list(step) for step in unet.steps]}, {counts}, True, "
        f"torch.nn.InstanceNorm{dims}d, "
        "{'eps': 1e-5, 'affine': True}, None, None, torch.nn.LeakyReLU, {'inplace': True}, return_skips=True)\n"
    )
    twice = []
    for name in (*(entry.theirs for entry in entries), *extra):  # each unit there also keeps its layers in a list
        layer, part = name.split(".")[-2:]
        unit_name = name.removesuffix(f".{layer}.{part}")
        twice.append((f"{unit_name}.all_modules.{0 if layer == 'conv' else 1}.{part}", name))
    features = "features = module(image)[-1].flatten(2).mean(-1)"
    return Layout(tuple(entries), extra, build, features, tuple(twice), tuple(extra))  # a norm takes each bias away
