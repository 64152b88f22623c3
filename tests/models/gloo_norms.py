"""What each of two gloo processes computes of networks with batch norm; started by test_batch_norm.py."""

import torch
import torch.distributed as dist
from torch import Tensor, nn

from medssl.models.batch_norm import convert_batch_norms
from medssl.models.masked import Norm
from medssl.models.projectors import DINOHead, Projector


class BatchNormAct2d(nn.BatchNorm2d):
    """As timm's: an activation behind the norm, in the same layer."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.drop, self.act = nn.Identity(), nn.PReLU()

    def forward(self, image: Tensor) -> Tensor:
        """Normalise and activate."""
        out: Tensor = self.act(self.drop(super().forward(image)))
        return out


def of_another_library() -> nn.Module:
    """Layers of torch and of timm's kind, in images and in vectors."""
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1, bias=False),
        BatchNormAct2d(4),
        nn.Conv2d(4, 3, 3),
        nn.BatchNorm2d(3, momentum=None),
        nn.Flatten(),
        nn.Linear(12, 6),
        nn.BatchNorm1d(6, affine=False, track_running_stats=False),
    )


def _converted() -> nn.Module:
    network = of_another_library()
    convert_batch_norms(network)
    return network


def networks() -> dict[str, nn.Module]:
    """Small networks with the same weights in every process."""
    torch.manual_seed(0)
    return {
        "projector": nn.Sequential(nn.Flatten(), Projector([16, 8, 6], last_norm="fixed")),
        "dino head": nn.Sequential(nn.Flatten(), DINOHead(16, 8, 6, 10, norm=True)),
        "encoder": nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), Norm(4, "batch"), nn.ReLU(), nn.Flatten()),
        "another library's": _converted(),
    }


def images() -> Tensor:
    """The whole batch of eight."""
    return torch.randn(8, 1, 4, 4, generator=torch.Generator().manual_seed(1))


def computed(network: nn.Module, batch: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """Loss, a gradient and the running statistics after a step."""
    loss = (network(batch) * targets).mean()
    loss.backward()
    gradient = next(network.parameters()).grad
    return {"loss": loss.detach(), "gradient": torch.zeros(1) if gradient is None else gradient}


def half(rank: int) -> dict[str, dict[str, Tensor]]:
    """What this process computes of its half; loss and gradients are averaged as DDP averages them."""
    found: dict[str, dict[str, Tensor]] = {}
    rows = slice(4 * rank, 4 * rank + 4)
    for name, network in networks().items():
        found[name] = computed(network, images()[rows], targets(network)[rows])
        for tensor in found[name].values():
            dist.all_reduce(tensor)
            tensor.div_(2)
        found[name] |= {n: b.clone() for n, b in network.named_buffers()}
    return found


def targets(network: nn.Module) -> Tensor:
    """Weights of the outputs in the loss, so that every output has a gradient of its own."""
    with torch.no_grad():
        shape = network.eval()(images()).shape
    network.train()
    return torch.randn(shape, generator=torch.Generator().manual_seed(2))
