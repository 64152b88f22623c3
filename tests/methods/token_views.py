"""Small transformers, batches of views, and a slow oracle of what iBOT and DINOv2 compute."""

from typing import Any

import torch
from torch import Tensor

from medssl.models.positions import patchify, sincos_positions
from medssl.models.vit import ViT


def small_vit(dims: int = 2, channels: int = 1, registers: int = 0) -> ViT:
    return ViT(dims, channels, patch_size=4, width=12, depth=2, heads=2, registers=registers)


def view_batch(dims: int = 2, channels: int = 1, size: int = 4, local: int = 3) -> dict[str, Tensor]:
    """Two global views of 16 voxels a side (8 in 3D) and local ones of half of it."""
    generator = torch.Generator().manual_seed(1)
    side = 16 if dims == 2 else 8
    image = torch.randn(size, channels, *[side] * dims, generator=generator)
    batch = {
        "image": image,
        "views": image + 0.3 * torch.randn(2, *image.shape, generator=generator),
        "step": torch.tensor(3),
        "index": torch.arange(size),
        "patient": torch.arange(size),
    }
    if local:
        batch["local_views"] = torch.randn(local, size, channels, *[side // 2] * dims, generator=generator)
    return batch


def part_of(batch: dict[str, Tensor], rows: slice) -> dict[str, Tensor]:
    """Some samples of a batch."""
    views = {name: batch[name][:, rows] for name in ("views", "local_views") if name in batch}
    return {**batch, **views, **{name: batch[name][rows] for name in ("image", "index", "patient")}}


def tokens_of(vit: ViT, image: Tensor, hidden: Tensor | None, token: Tensor) -> Tensor:
    """Normalised tokens of one image (C, *S), its patches `hidden` (N,) replaced one by one."""
    patches = patchify(image[None], vit.patch_size)[0]
    embedded = [
        token[0, 0] if hidden is not None and hidden[number] else vit.patch_embed(patch)
        for number, patch in enumerate(patches)
    ]
    placed = torch.stack(embedded) + sincos_positions(vit.grid(image.shape[1:]), vit.width)
    tokens = torch.cat([vit.tokens[0], placed])[None]
    for block in vit.blocks:
        tokens = block(tokens)
    return vit.norm(tokens)[0]


def outputs_of(method: Any, batch: dict[str, Tensor]) -> dict[str, Any]:
    """What student and teacher say, image by image: class tokens, logits of class tokens, of all patches; the masks."""
    images = batch["views"].flatten(0, 1)
    masks = method.draw(images, int(batch["step"])).mask
    student, teacher = method.student, method.teacher.network
    found: dict[str, Any] = {"masks": masks}
    for name, branch, hidden in (("student", student, masks), ("teacher", teacher, [None] * len(images))):
        head = branch.patch_projector or branch.projector
        extra = branch.encoder.tokens.shape[1]
        tokens = [tokens_of(branch.encoder, i, h, method.mask_token) for i, h in zip(images, hidden, strict=True)]
        found[name] = torch.stack([branch.projector(t[0]) for t in tokens])
        found[f"{name}_patches"] = torch.stack([head(t[extra:]) for t in tokens])
        found[f"{name}_tokens"] = torch.stack([t[0] for t in tokens])
    found["local"] = [student(view) for view in batch.get("local_views", ())]
    return found


def class_loss(targets: Tensor, found: dict[str, Any]) -> Tensor:
    """Each of two teacher views against every other student view."""
    students, terms = [*found["student"].chunk(2), *found["local"]], []
    for number, target in enumerate(targets.chunk(2)):
        for other, student in enumerate(students):
            if other != number:
                terms.append(-(target * (student / 0.1).log_softmax(-1)).sum(-1).mean())
    return sum(terms) / len(terms)


def patch_loss(targets: Tensor, found: dict[str, Any]) -> Tensor:
    """`targets` (V * B, N, K) of all patches; only hidden ones may be read."""
    total = torch.zeros(())
    for number, hidden in enumerate(found["masks"]):
        own = [
            -(targets[number, place] * (found["student_patches"][number, place] / 0.1).log_softmax(-1)).sum()
            for place in hidden.nonzero()[:, 0]
        ]
        total = total + (sum(own) / len(own) if own else 0)
    return total / len(found["masks"])
