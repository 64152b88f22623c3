"""How training images are varied; torch-free, so that help is at once."""

from dataclasses import asdict, dataclass, fields
from typing import Any

from medssl.imaging.errors import ConfigError
from medssl.imaging.preprocess import Intensity

_FROM_ZERO = ("scale", "stretch", "elastic_voxels", "noise_std", "brightness", "gamma", "bias", "stain")


@dataclass
class AugmentOptions:
    """Probability and strength of each variation; probability 0 turns it off.

    Defaults follow nnU-Net (Isensee et al. 2021, https://doi.org/10.1038/s41592-020-01008-z), except that no axis is
    mirrored unless asked for: a mirrored body has left and right, liver and spleen exchanged.

    Raises:
        ConfigError: Values outside their range, all at once.
    """

    affine_p: float = 0.3
    """Probability of rotation, scale, stretch and shift together, done in one resampling."""

    rotation_deg: float = 20.0
    """Largest rotation about each axis, in degrees, on the grid in mm."""

    scale: float = 0.25
    """Largest relative change of size: the zoom is drawn between 1 / (1 + scale) and 1 + scale."""

    stretch: float = 0.0
    """Largest relative change of size of each axis on its own, on top of `scale`, drawn likewise."""

    shift: float = 0.0
    """Largest shift along each axis, as a share of the crop."""

    elastic_p: float = 0.0
    """Probability of a smooth deformation, done in the same resampling as the affine part."""

    elastic_voxels: float = 2.0
    """Largest displacement along each axis, in voxels, at 4 control points an axis."""

    flip_axes: tuple[int, ...] = ()
    """Spatial axes that are mirrored with probability 0.5 each; in RAS+ images axis 0 exchanges left and
    right, in 2D axis 0 exchanges top and bottom and axis 1 the sides."""

    noise_p: float = 0.1
    """Probability of added Gaussian noise."""

    noise_std: float = 0.3
    """Largest standard deviation of the noise, relative to that of the image."""

    blur_p: float = 0.2
    """Probability of Gaussian smoothing."""

    blur_voxels: float = 1.0
    """Largest standard deviation of the smoothing, in voxels; the smallest is half of it."""

    brightness_p: float = 0.15
    """Probability of a constant added to the image."""

    brightness: float = 0.3
    """Largest constant, relative to the standard deviation of the image."""

    contrast_p: float = 0.15
    """Probability of stretching intensities about the image's mean."""

    contrast: float = 0.35
    """Largest relative stretch: the factor is drawn between 1 - contrast and 1 + contrast."""

    low_resolution_p: float = 0.15
    """Probability of taking detail away: averaged to a coarser grid and interpolated back."""

    low_resolution: float = 2.0
    """Coarsest grid, in voxels; drawn between 1 and this."""

    gamma_p: float = 0.3
    """Probability of a gamma curve between the image's lowest and highest value, mean and deviation kept."""

    gamma: float = 0.5
    """Largest relative change: the exponent is drawn between 1 / (1 + gamma) and 1 + gamma."""

    bias_p: float = 0.0
    """Probability of a smooth multiplicative field, as MR coils make it."""

    bias: float = 0.3
    """Largest natural logarithm of the field."""

    stain_p: float = 0.0
    """Probability of stronger and weaker stains in H&E sections: colour pictures prepared with intensity window 0 to
    255 (Tellez et al. 2018)."""

    stain: float = 0.05
    """Largest relative change of each stain, and largest optical density added to it: 0.05 is light, 0.2 strong."""

    def __post_init__(self) -> None:
        if problems := self.problems():
            raise ConfigError(problems)

    def misfits(self, channels: int, intensity: Intensity) -> list[str]:
        """What the prepared images cannot be varied by, one sentence each."""
        coloured = (
            channels == 3 and intensity.kind == "window" and (intensity.low, intensity.high) == ((0.0,), (255.0,))
        )
        if self.stain_p == 0 or coloured:
            return []
        found = f"these have {channels} channel(s) and intensity {intensity.kind}"
        return [f"augment.stain_p needs red, green and blue prepared with intensity window 0 to 255, {found}"]

    def problems(self) -> list[str]:
        """Every value outside its range, one sentence each."""
        values = asdict(self)
        rules = [
            *((name, 0 <= values[name] <= 1, "must lie in [0, 1]") for name in values if name.endswith("_p")),
            *((name, values[name] >= 0, "must be 0 or more") for name in _FROM_ZERO),
            ("rotation_deg", 0 <= self.rotation_deg <= 180, "must lie in [0, 180]"),
            ("shift", 0 <= self.shift <= 1, "must lie in [0, 1]"),
            ("contrast", 0 <= self.contrast < 1, "must lie in [0, 1)"),
            ("blur_voxels", self.blur_voxels > 0 or self.blur_p == 0, "must be positive where blur_p is"),
            ("low_resolution", self.low_resolution >= 1, "must be 1 or more"),
            (
                "flip_axes",
                all(axis in (0, 1, 2) for axis in self.flip_axes) and len(set(self.flip_axes)) == len(self.flip_axes),
                "must name spatial axes 0, 1 or 2, each once",
            ),
        ]
        return [f"augment.{name} {rule}, got {values[name]}" for name, holds, rule in rules if not holds]

    def to_json(self) -> dict[str, Any]:
        """Plain dictionary for run.json."""
        return {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(self).items()}


@dataclass
class ViewAugment(AugmentOptions):
    """As `AugmentOptions`, for views of a pretraining: what is left out is off, but for a change of scale.

    Masked modelling needs no more (He et al. 2022, table 1e); methods with several views name what they vary.
    """

    affine_p: float = 0.5
    """Probability of rotation, scale, stretch and shift together, done in one resampling."""

    rotation_deg: float = 0.0
    """Largest rotation about each axis, in degrees, on the grid in mm."""

    scale: float = 0.2
    """Largest relative change of size: the zoom is drawn between 1 / (1 + scale) and 1 + scale."""

    noise_p: float = 0.0
    """Probability of added Gaussian noise."""

    blur_p: float = 0.0
    """Probability of Gaussian smoothing."""

    brightness_p: float = 0.0
    """Probability of a constant added to the image."""

    contrast_p: float = 0.0
    """Probability of stretching intensities about the image's mean."""

    low_resolution_p: float = 0.0
    """Probability of taking detail away: averaged to a coarser grid and interpolated back."""

    gamma_p: float = 0.0
    """Probability of a gamma curve between the image's lowest and highest value, mean and deviation kept."""


NO_AUGMENTATION: dict[str, float] = {item.name: 0.0 for item in fields(AugmentOptions) if item.name.endswith("_p")}
"""Arguments that turn everything off: `AugmentOptions(**NO_AUGMENTATION)`."""
