"""Families of hostile inputs: what each is fed to, how many there are, and what may become of them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

Maker = Callable[[Path, int], Path]
"""Writes input NUMBER into an empty folder and returns the path that is fed in."""


@dataclass(frozen=True)
class Family:
    """Inputs of one kind.

    Args:
        name: Name in kebab case.
        make: Writes one of them.
        count: How many there are, at most 20.
        entry: Entry point: `read`, `label`, `below`, `index`, `bundle` or `config`.
        reasons: Reason codes that are right; empty accepts any.
        harmless: True where an input may also be read; a family that must be refused has False.
    """

    name: str
    make: Maker
    count: int
    entry: str
    reasons: tuple[str, ...]
    harmless: bool


FAMILIES: dict[str, Family] = {}


def family(
    count: int, *, entry: str = "read", reasons: Sequence[str] = (), harmless: bool = False
) -> Callable[[Maker], Maker]:
    """Register a maker under its own name, as a family of `count` inputs."""

    def register(make: Maker) -> Maker:
        name = make.__name__.replace("_", "-")
        assert name not in FAMILIES
        assert count <= 20
        FAMILIES[name] = Family(name, make, count, entry, tuple(reasons), harmless)
        return make

    return register


def zeros(mebibytes: int) -> bytes:
    """Raw deflate blocks that unpack to so many MiB of zeros; not closed, so that other blocks may follow."""
    import zlib

    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    block = packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)
    return block * mebibytes  # a full flush makes blocks that do not refer to one another
