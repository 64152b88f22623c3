"""Weights of another library's module, read into an encoder that computes the same."""

import pickle
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from medssl.imaging.errors import CheckpointError, ConfigError
from medssl.models.encoder import Encoder, PatchEncoder
from medssl.models.layouts import LIBRARIES, Layout, fitting_size, layout_of
from medssl.models.positions import are_sincos

_SUFFIXES = (".safetensors", ".pt", ".pth", ".ckpt", ".bin")
_WRAPPERS = ("state_dict", "network_weights", "model_state_dict", "model", "module", "teacher", "student")
_BESIDE = re.compile(
    r"(num_batches_tracked|position_embeddings|pos_embed|relative_position_index|relative_coords_table|attn_mask)$"
    r"|^blocks\.\d+\.cross_attn\."  # MONAI 1.4 keeps an attention that its ViT never calls
)
"""Names inside an encoder that may have no place here: counters, positions, tables and what computes nothing."""

_PARTS = {"reg_token", "register_tokens", "storage_tokens", "dist_token", "norm_pre", "rope", "rope_embed"}
"""First words of names at the top that change what a vision transformer computes."""


@dataclass(frozen=True)
class ForeignWeights:
    """What was found in a file.

    Args:
        library: Whose names it has.
        tensors: By the encoder's own names.
        channels: Channels of the images that it was trained on.
        unused: Names in the file that have no place in the encoder.
        fresh: Names of the encoder that the file may lack, and lacks.
        notes: Why features differ from those of the module that the file was written from.
    """

    library: str
    tensors: dict[str, Tensor]
    channels: int
    unused: tuple[str, ...]
    fresh: tuple[str, ...]
    notes: tuple[str, ...]


def is_foreign(path: Path) -> bool:
    """Whether a file is no encoder file of this package: there is no description beside it."""
    return path.suffix in _SUFFIXES and not path.with_suffix(".json").is_file()


def read_foreign(path: Path, encoder: nn.Module) -> ForeignWeights:
    """Read a checkpoint of MONAI, timm or nnU-Net (nnssl), whichever names it has.

    Args:
        path: safetensors, or what `torch.save` wrote of tensors and plain values (nothing else is ever unpickled).
        encoder: The encoder that is to take the weights.

    Raises:
        CheckpointError: The file cannot be read, or no library's names in it cover the encoder, with what is missing.
    """
    content = _tensors(_content(path), path)
    if not isinstance(encoder, Encoder):
        raise CheckpointError(f"{type(encoder).__name__} takes no weights of other libraries", reason="foreign")
    told: list[str] = []
    for library in (name for name in LIBRARIES if name != "torch"):
        try:
            layout = layout_of(encoder, library, fitting_size(encoder))
        except ConfigError as error:
            told += error.problems
            continue
        found = _under_own_names(layout, content)
        prefixes = _prefixes(layout, found)
        missing = _missing(layout, found, prefixes[0])
        if not missing:
            problems = [*_more(layout, found, prefixes[0]), *_torn(layout, found, prefixes)]
            problems += _other_patches(layout, found, prefixes[0], encoder)
            if problems:
                whose = f"{path}, in the names of {library}, does not fit {type(encoder).__name__}"
                raise CheckpointError(f"{whose}: {'; '.join(problems)}", reason="encoder-mismatch")
            return _taken(library, layout, found, prefixes, encoder)
        told.append(f"{library}: {len(missing)} of {len(layout.needed)} tensors are not there, first {missing[0]}")
    if set(content) & {f"encoder.{name}" for name in encoder.state_dict()}:
        raise CheckpointError(
            f"{path.with_suffix('.json')} does not exist: an encoder is a .safetensors file with its .json",
            reason="no-encoder",
        )
    raise CheckpointError(
        f"{path} does not fit {type(encoder).__name__} ({'; '.join(dict.fromkeys(told))}); it holds {len(content)} "
        f"tensors, first {', '.join(list(content)[:3])}. Name the encoder with the numbers that the file was made with",
        reason="encoder-mismatch",
    )


def _content(path: Path) -> Any:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"{path} does not exist", reason="no-encoder") from None
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} holds more than tensors and plain values, which could run code when it is opened: where you trust "
            "it, open it and save its state_dict as safetensors",
            reason="pickle",
        ) from error
    except (SafetensorError, OSError, RuntimeError, EOFError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged or no checkpoint ({error})", reason="bad-encoder") from error


def _tensors(content: Any, path: Path) -> dict[str, Tensor]:
    """The dictionary of tensors, which may lie in others."""
    while isinstance(content, Mapping):
        tensors = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
        inner = [content[name] for name in _WRAPPERS if isinstance(content.get(name), Mapping)]
        if tensors and not inner:
            return tensors
        if not inner:
            break
        content = inner[0]
    raise CheckpointError(f"{path} holds no tensors under names", reason="bad-encoder")


def _under_own_names(layout: Layout, content: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors with the module's own names, where the file is a sibling's."""
    renamed = dict(content)
    for alias, own in layout.aliases:
        for name in content:
            if f".{name}".endswith(f".{alias}"):
                renamed[name.removesuffix(alias) + own] = renamed.pop(name)
    return renamed


def _prefixes(layout: Layout, found: Mapping[str, Tensor]) -> list[str]:
    """What may stand before the layout's names in the file, the one with the fewest missing names first."""
    first = layout.needed[0]
    known = {name.removesuffix(first) for name in found if name.endswith(first)} or {""}
    return sorted(known, key=lambda prefix: (len(_missing(layout, found, prefix)), len(prefix), prefix))


def _missing(layout: Layout, found: Mapping[str, Tensor], prefix: str) -> list[str]:
    return [name for name in layout.needed if prefix + name not in found]


def _more(layout: Layout, found: Mapping[str, Tensor], prefix: str) -> Iterator[str]:
    """What to say of parts of the encoder in the file that the one here has not; heads and decoders are none."""
    roots = {name.split(".")[0] for name in layout.needed} | _PARTS
    inside = [name.removeprefix(prefix) for name in found if name.startswith(prefix)]
    more = [name for name in inside if name.split(".")[0] in roots and name not in layout.known]
    more = [name for name in more if not _BESIDE.search(name)]
    if more:
        yield (
            f"{len(more)} tensors of the encoder in it have no place here, first {prefix}{more[0]}, so that other "
            "features would come out. Name the encoder with the numbers that the file was made with (depth, blocks, "
            "stages, registers); parts that it does not have here (such as LayerScale or squeeze-and-excitation) "
            "cannot be taken over"
        )


def _torn(layout: Layout, found: Mapping[str, Tensor], prefixes: Sequence[str]) -> Iterator[str]:
    """What to say of two encoders of which neither comes first: a student and a teacher under names of one length."""
    alike = [other for other in _whole(layout, found, prefixes) if len(other) == len(prefixes[0])]
    names = [*layout.needed, *layout.spare]
    unlike = [p for p in alike if any(not _same(found.get(p + n), found.get(prefixes[0] + n)) for n in names)]
    if unlike:
        yield (
            f"it holds two encoders of different weights, below {prefixes[0]!r} and {unlike[0]!r}. Save the tensors "
            "below one of them to a file of their own"
        )


def _other_patches(layout: Layout, found: Mapping[str, Tensor], prefix: str, encoder: Encoder) -> Iterator[str]:
    """What to say of patches of another size, whose weights could pass for those of other channels."""
    if not isinstance(encoder, PatchEncoder):
        return
    kernel = tuple(_first_kernel(layout, found, prefix).shape[2:])
    if kernel != tuple(encoder.patch_size):
        yield f"its patches are {kernel} and those here {tuple(encoder.patch_size)}: set patch_size to {list(kernel)}"


def _first_kernel(layout: Layout, found: Mapping[str, Tensor], prefix: str) -> Tensor:
    """Weights (E, C, *kernel) of the layer that sees the image."""
    tensors = [found[prefix + name] for name in layout.needed]
    return next((tensor for tensor in tensors if tensor.ndim > 3), tensors[0])


def _whole(layout: Layout, found: Mapping[str, Tensor], prefixes: Sequence[str]) -> list[str]:
    return [prefix for prefix in prefixes if not _missing(layout, found, prefix)]


def _taken(
    library: str, layout: Layout, found: Mapping[str, Tensor], prefixes: Sequence[str], encoder: Encoder
) -> ForeignWeights:
    """Weights under the first prefix; those under another that are the same (nnU-Net's decoder holds the encoder)."""
    prefix, whole = prefixes[0], _whole(layout, found, prefixes)
    inside = {name[len(prefix) :]: tensor for name, tensor in found.items() if name.startswith(prefix)}
    own = layout.back({name: tensor.float() for name, tensor in inside.items()})
    places = {other + name: prefix + name for other in reversed(whole) for name in layout.known}
    used = {name for name, place in places.items() if name in found and _same(found[name], found.get(place))}
    return ForeignWeights(
        library,
        own,
        _first_kernel(layout, found, prefix).shape[1],
        tuple(name for name in found if name not in used),
        tuple(name for name in layout.names if name not in own),
        tuple(_differences(layout, inside, encoder)),
    )


def _differences(layout: Layout, inside: Mapping[str, Tensor], encoder: Encoder) -> Iterator[str]:
    """What to say of a file whose module computes other features with the same weights."""
    until = "so features differ from those of the file's network until they are trained on"
    for name in set(layout.fresh) - set(inside):
        yield f"no {name} in the file: the class token here starts fresh and all patches see it, {until}"
    if not layout.positions:
        return
    table = inside.get(layout.positions)
    if table is None:
        yield f"no {layout.positions} in the file: fixed positions are added here, {until}"
    elif not are_sincos(table.reshape(-1, table.shape[-1]), encoder.spatial_dims):
        yield f"{layout.positions} of the file, learned or made otherwise, left out: positions here are fixed, {until}"


def _same(one: Tensor | None, other: Tensor | None) -> bool:
    return one is other or (one is not None and other is not None and torch.equal(one, other))
