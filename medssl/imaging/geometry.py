"""Where voxels lie in the patient: a grid shape and an affine in RAS+ millimetres."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from medssl.imaging.errors import ImageError

AFFINE_ATOL_MM = 1e-3
"""Two grids are the same when no voxel centre differs by more than this, in mm."""

_AXIS_CODES = (("L", "R"), ("P", "A"), ("I", "S"))


@dataclass(frozen=True, eq=False)
class Geometry:
    """Grid of a 2D or 3D image in the patient.

    The voxel with index `(i, j, k)` has its centre at `affine @ (i, j, k, 1)`, in mm, RAS+: x grows
    to the patient's right, y to anterior, z to superior. A 2D grid has `k = 0` and a full 4x4 affine.

    Args:
        affine: (4, 4) voxel index to RAS+ mm; invertible.
        shape: Number of voxels an axis, length 2 or 3; its length is `spatial_dims`.

    Raises:
        ImageError: The affine is singular, not finite or not 4x4, or the shape is not 2D or 3D.
    """

    affine: npt.NDArray[np.float64]
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        affine = np.array(self.affine, dtype=np.float64)
        if affine.shape != (4, 4) or not np.all(np.isfinite(affine)):
            raise ImageError(f"affine must be a finite 4x4 matrix, got {affine.tolist()}", reason="bad-affine")
        spacing = np.linalg.norm(affine[:3, :3], axis=0)
        if np.any(spacing <= 0) or abs(np.linalg.det(affine[:3, :3])) < 1e-6 * float(np.prod(spacing)):
            raise ImageError(
                f"affine is singular, so voxels have no place in the patient: {affine.tolist()}", reason="bad-affine"
            )
        if len(self.shape) not in (2, 3) or any(int(n) < 1 for n in self.shape):
            raise ImageError(f"shape must be 2D or 3D and not empty, got {self.shape}", reason="bad-shape")
        affine.setflags(write=False)
        object.__setattr__(self, "affine", affine)
        object.__setattr__(self, "shape", tuple(int(n) for n in self.shape))

    @property
    def spatial_dims(self) -> int:
        """2 or 3."""
        return len(self.shape)

    @cached_property
    def spacing_mm(self) -> tuple[float, ...]:
        """Distance between voxel centres along each index axis, in mm, length `spatial_dims`."""
        norms = np.linalg.norm(self.affine[:3, :3], axis=0)
        return tuple(float(x) for x in norms[: self.spatial_dims])

    @cached_property
    def voxel_ml(self) -> float:
        """Volume of one voxel in mL (for a 2D grid: with the third column of the affine as thickness)."""
        return float(abs(np.linalg.det(self.affine[:3, :3]))) / 1000.0

    @cached_property
    def is_sheared(self) -> bool:
        """True where the index axes are not at right angles (gantry tilt)."""
        directions = self.affine[:3, :3] / np.linalg.norm(self.affine[:3, :3], axis=0)
        gram = directions.T @ directions
        return bool(np.max(np.abs(gram - np.eye(3))) > 1e-3)

    @cached_property
    def orientation(self) -> str:
        """Closest axis codes, for instance `RAS`: the direction in which each index grows."""
        directions = self.affine[:3, :3] / np.linalg.norm(self.affine[:3, :3], axis=0)
        codes: list[str] = [""] * 3
        free_world, free_index = {0, 1, 2}, {0, 1, 2}
        while free_index:
            world, index = max(
                ((w, i) for w in free_world for i in free_index), key=lambda pair: abs(directions[pair[0], pair[1]])
            )
            codes[index] = _AXIS_CODES[world][int(directions[world, index] > 0)]
            free_world.discard(world)
            free_index.discard(index)
        return "".join(codes)

    def to_world(self, index: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Map voxel indices (..., 3) to RAS+ mm (..., 3)."""
        return np.asarray(index, dtype=np.float64) @ self.affine[:3, :3].T + self.affine[:3, 3]

    def to_index(self, world_mm: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Map RAS+ mm (..., 3) to fractional voxel indices (..., 3)."""
        inverse = np.linalg.inv(self.affine[:3, :3])
        return (np.asarray(world_mm, dtype=np.float64) - self.affine[:3, 3]) @ inverse.T

    def is_close(self, other: "Geometry", atol_mm: float = AFFINE_ATOL_MM) -> bool:
        """True where both grids have one shape and no corner lies more than `atol_mm` apart."""
        if self.shape != other.shape:
            return False
        size = (*self.shape, 1)[:3]
        corners = np.array(list(np.ndindex(2, 2, 2))) * (np.array(size) - 1)
        return bool(np.max(np.abs(self.to_world(corners) - other.to_world(corners))) <= atol_mm)
