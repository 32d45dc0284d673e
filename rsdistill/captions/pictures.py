"""What a vision-language model is shown of a chip: colour pictures, and a line of measured facts."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rsdistill.bands import FALSE_COLOUR, NATURAL_COLOUR
from rsdistill.composites import stretch_limits, to_rgb
from rsdistill.datasets.base import SceneData
from rsdistill.errors import BandError
from rsdistill.indices import available, spectral_index

# Chips that the brightness of all pictures is set by.
_SAMPLE = 256
# Zero is McFeeters' own threshold between land and open water.
_WATER = 0.0


@dataclass(frozen=True)
class Shown:
    """One chip, as a model sees it.

    Attributes:
        pictures: Natural colour, then false colour where asked for; (H, W, 3), uint8.
        facts: A line of what was measured, empty unless asked for.
    """

    pictures: tuple[NDArray[np.uint8], ...]
    facts: str

    @property
    def digest(self) -> str:
        """sha256 of the pictures' size and content, in hexadecimal."""
        found = hashlib.sha256()
        for picture in self.pictures:
            found.update(f"{picture.shape}".encode())
            found.update(np.ascontiguousarray(picture).tobytes())
        return found.hexdigest()


class PictureMaker:
    """Renders chips of a dataset, all of them equally bright.

    Args:
        data: The dataset; its train view sets the brightness.
        false_colour: Whether to show near infrared, red and green as a second picture.
        facts: Whether to measure: ground sampling distance, mean NDVI, share of water.

    Raises:
        BandError: If false colour is asked for, but not all its bands are there.
    """

    def __init__(self, data: SceneData, false_colour: bool = False, facts: bool = False) -> None:
        self._bands, self._gsd, self._facts = data.bands, data.gsd, facts
        self._colours = (NATURAL_COLOUR, FALSE_COLOUR) if false_colour else (NATURAL_COLOUR,)
        if false_colour:
            try:
                for wavelength in FALSE_COLOUR:
                    data.bands.nearest(wavelength)
            except BandError as error:
                raise BandError(f"no false-colour picture can be shown: {error}; leave out false_colour") from error
        count = len(data.train)
        which = np.unique(np.linspace(0, count - 1, min(count, _SAMPLE)).astype(np.int64))
        sample = data.train.images(which)
        self._limits = [stretch_limits(sample, data.bands, colour) for colour in self._colours]

    def show(self, chip: NDArray[np.generic]) -> Shown:
        """One chip (B, H, W) in sensor units, as pictures and facts."""
        pictures = tuple(
            to_rgb(chip[None], self._bands, colour, limits)[0]
            for colour, limits in zip(self._colours, self._limits, strict=True)
        )
        return Shown(pictures, self._measure(chip) if self._facts else "")

    def _measure(self, chip: NDArray[np.generic]) -> str:
        facts = [f"one pixel is {self._gsd:g} m wide"]
        known = available(self._bands)
        if "ndvi" in known:
            facts.append(f"mean NDVI {_mean(spectral_index('ndvi', chip, self._bands)):.2f}")
        if "ndwi" in known:
            water = spectral_index("ndwi", chip, self._bands)
            facts.append(f"water covers {_mean(np.where(np.isnan(water), np.nan, water > _WATER)):.0%}")
        return f"Measured: {', '.join(facts)}."


def _mean(values: NDArray[np.floating]) -> float:
    """Mean of what was measured; 0 where nothing was."""
    measured = values[~np.isnan(values)]
    return float(measured.mean()) if measured.size else 0.0
