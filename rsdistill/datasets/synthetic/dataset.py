"""SyntheticScenes: labelled multispectral chips that need no download."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from rsdistill.bands import get_bands, parse_bands
from rsdistill.classes import ClassInfo
from rsdistill.datasets.base import DATASETS, SceneSource
from rsdistill.datasets.folder import chosen_classes
from rsdistill.datasets.synthetic import built, rural
from rsdistill.datasets.synthetic.canvas import EXTENT, Attributes, Canvas, Scene, band_responses
from rsdistill.datasets.synthetic.sensor import Light, add_noise, reflectance, to_units
from rsdistill.errors import ChipError, OptionError
from rsdistill.sensitive.taxonomy import load_taxonomy

_PAINTERS: dict[str, Callable[[Scene], None]] = {
    "forest": rural.forest,
    "cropland": rural.cropland,
    "centre_pivot_farmland": rural.centre_pivot,
    "river": rural.river,
    "beach": rural.beach,
    "residential": built.residential,
    "motorway_interchange": built.interchange,
    "runway": built.runway,
    "storage_tanks": built.storage_tanks,
    "solar_farm": built.solar_farm,
}
SYNTHETIC_CLASSES: tuple[ClassInfo, ...] = tuple(load_taxonomy().class_info("synthetic", key) for key in _PAINTERS)

# Greenness of grass, leaves on broadleaved trees, autumn colour: range of each.
_SEASONS = {
    "spring": ((0.55, 1.0), (0.5, 1.0), (0.0, 0.0)),
    "summer": ((0.05, 0.95), (0.9, 1.0), (0.0, 0.0)),
    "autumn": ((0.25, 0.8), (0.6, 1.0), (0.1, 0.9)),
    "winter": ((0.1, 0.6), (0.05, 0.3), (0.0, 0.8)),
}
_SMALLEST, _LARGEST = 8, 1024
# Independent random streams of one chip.
_GEOMETRY, _LIGHT, _NOISE = 0, 1, 2


@DATASETS.register(
    "synthetic", summary="rendered multispectral scenes, 10 classes, any bands and size; nothing to download"
)
class SyntheticScenes(SceneSource):
    """Scenes rendered from geometry and material spectra, for demonstrations and tests.

    A chip follows from the scene seed, its class and its running number alone: the order of
    reading, the bands chosen and the other classes change nothing. Every chip shows 192 m
    of ground, so the sampling distance is 192 m / ``size`` (3 m at 64 px) and a scene keeps
    its content at any size. Pixels are top-of-atmosphere reflectance in the units of the
    bands; every band is rendered at the chip's own sampling distance.

    Args:
        root: Must stay None; nothing is read from disk.
        bands: A sensor's name, band names of ``bgrn``, or a description of bands.
        size: Pixels a side, 8 to 1024.
        chips_per_class: Chips of each class.
        scene_seed: Draws another dataset of the same kind; the seed of the split is another thing.
        classes: Keys of the classes wanted, in this order; None for all.

    Raises:
        OptionError: If an option is out of range, or a root is given.
        UnknownNameError: If a class, sensor or band is unknown.
        BandError: If a band has no wavelength, or one outside 0.4 to 2.5 µm.
    """

    RENAMED: ClassVar[dict[str, str]] = {"seed": "scene_seed"}

    name = "synthetic"
    licence = "CC0-1.0"
    citation = "SyntheticScenes of rsdistill: rendered from geometry and material spectra, without any original image."

    def __init__(
        self,
        root: str | None = None,
        bands: str | Sequence[str] | dict[str, Any] = "bgrn",
        size: int = 64,
        chips_per_class: int = 200,
        scene_seed: int = 0,
        classes: Sequence[str] | None = None,
    ) -> None:
        if root is not None:
            raise OptionError(f"dataset 'synthetic' is generated and reads no files; leave out root (given: '{root}')")
        _check_whole("size", size, _SMALLEST, _LARGEST)
        _check_whole("chips_per_class", chips_per_class, 1, 1_000_000)
        _check_whole("scene_seed", scene_seed, 0, 2**63 - 1)
        self.bands = parse_bands(bands, default=get_bands("bgrn"))
        band_responses(self.bands)  # Refuses bands that cannot be rendered now, not at the first chip.
        self.classes = _chosen(classes)
        self.size, self.scene_seed, self.gsd = size, scene_seed, EXTENT / size
        self.labels = np.repeat(np.arange(len(self.classes), dtype=np.int64), chips_per_class)
        self._numbers = np.tile(np.arange(chips_per_class), len(self.classes))
        self.chip_ids = [
            f"{self.classes[label].key}_{number:04d}" for label, number in zip(self.labels, self._numbers, strict=True)
        ]

    @classmethod
    def known_classes(cls, options: Mapping[str, Any]) -> tuple[ClassInfo, ...]:
        """All ten; see :meth:`SceneSource.known_classes`."""
        return SYNTHETIC_CLASSES

    def read(self, index: int) -> NDArray[Any]:
        """Render one chip of shape (B, size, size), of ``bands.dtype``.

        Raises:
            ChipError: If there is no such chip.
        """
        scene = self._scene(index)
        light = Light.draw(np.random.default_rng(self._entropy(index, _LIGHT)))
        image = reflectance(scene.canvas, light, self.bands)
        return to_units(add_noise(image, light, self.bands, self._entropy(index, _NOISE)), self.bands)

    def attributes(self, index: int) -> Attributes:
        """What is true of a chip, as it was drawn: its season and facts of its class.

        Returns:
            Names to numbers or words, such as ``{"season": "winter", "river_width_m": 31.0}``.

        Raises:
            ChipError: If there is no such chip.
        """
        return self._scene(index).attributes

    def _entropy(self, index: int, stream: int) -> list[int]:
        """Seed of one random stream of a chip; the class enters by name, not by position."""
        key = self.classes[self.labels[index]].key
        return [self.scene_seed, zlib.crc32(key.encode()), int(self._numbers[index]), stream]

    def _scene(self, index: int) -> Scene:
        if not 0 <= index < len(self):
            raise ChipError(f"dataset 'synthetic' has chips 0 to {len(self) - 1}, not {index}")
        rng = np.random.default_rng(self._entropy(index, _GEOMETRY))
        season = str(rng.choice(list(_SEASONS)))
        green, leaves, autumn = (rng.uniform(*span) for span in _SEASONS[season])
        scene = Scene(Canvas(self.size), rng, season, green, leaves, autumn, {"season": season, "greenness": green})
        paint = _PAINTERS[self.classes[self.labels[index]].key]
        paint(scene)
        return scene


def _chosen(keys: Sequence[str] | None) -> tuple[ClassInfo, ...]:
    """The classes with these keys, in this order."""
    if keys is None:
        return SYNTHETIC_CLASSES
    known = {info.key: info for info in SYNTHETIC_CLASSES}
    if isinstance(keys, str) or not keys:
        raise OptionError(f"option 'classes' of dataset 'synthetic' must list class names ({', '.join(known)})")
    chosen_classes("synthetic", list(known), keys)
    if len(set(keys)) < len(keys):
        raise OptionError("option 'classes' of dataset 'synthetic' names a class twice; name each once")
    return tuple(known[key] for key in keys)


def _check_whole(option: str, value: object, low: int, high: int) -> None:
    """Refuse anything but a whole number within bounds."""
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise OptionError(
            f"option '{option}' of dataset 'synthetic' must be a whole number from {low} to {high}, not {value!r}"
        )
