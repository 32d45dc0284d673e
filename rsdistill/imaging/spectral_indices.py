"""Spectral indices of chips: normalised differences of two bands, which are found by wavelength or name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsdistill.bands import Band, BandSet
from rsdistill.errors import BandError, UnknownNameError


@dataclass(frozen=True)
class Region:
    """A part of the spectrum that an index needs a band of.

    Narrower than the tolerance of composites: a picture may show red edge as red, an index may not use it.

    Attributes:
        title: What it is called in words, as in :attr:`rsdistill.bands.Band.title`.
        centre: Wavelength in micrometres that the nearest band is taken to.
        tolerance: Largest distance in micrometres of a band's centre.
        names: Names that a band of unknown wavelength may have, in lower case.
    """

    title: str
    centre: float
    tolerance: float
    names: tuple[str, ...]

    def position(self, bands: BandSet) -> int | None:
        """Position of the band in this region, None if there is none; wavelengths go before names."""
        near = [(self._distance(band), place) for place, band in enumerate(bands) if band.centre is not None]
        distance, position = min(near, default=(np.inf, -1))
        if distance <= self.tolerance:
            return position
        named = (place for place, band in enumerate(bands) if band.centre is None and self._is_named(band))
        return next(named, None)

    def _distance(self, band: Band) -> float:
        return np.inf if band.centre is None else abs(band.centre - self.centre)

    def _is_named(self, band: Band) -> bool:
        return band.name.lower() in self.names or band.title.lower() in self.names


_GREEN = Region("green", 0.560, 0.04, ("green",))
_RED = Region("red", 0.660, 0.03, ("red",))
_NIR = Region("near infrared", 0.842, 0.05, ("nir", "near infrared"))
_SWIR = Region("short-wave infrared", 1.620, 0.10, ("swir", "swir1", "short-wave infrared", "short-wave infrared 1"))


@dataclass(frozen=True)
class SpectralIndex:
    """A normalised difference: (first - second) / (first + second).

    Attributes:
        name: Short name in lower case.
        title: Its name as it is written in figures.
        shows: What high values stand for.
        first: Region that raises the index.
        second: Region that lowers it.
        source: The paper that introduced it.
    """

    name: str
    title: str
    shows: str
    first: Region
    second: Region
    source: str


_ALL = (
    SpectralIndex("ndvi", "NDVI", "green vegetation", _NIR, _RED, "Rouse et al., 1974"),
    SpectralIndex("ndwi", "NDWI", "open water", _GREEN, _NIR, "McFeeters, 1996"),
    SpectralIndex("mndwi", "MNDWI", "open water, buildings left out", _GREEN, _SWIR, "Xu, 2006"),
    SpectralIndex("ndbi", "NDBI", "built-up land and bare soil", _SWIR, _NIR, "Zha, Gao and Ni, 2003"),
)
INDICES = {index.name: index for index in _ALL}


def list_indices() -> list[str]:
    """Names of all spectral indices."""
    return list(INDICES)


def available(bands: BandSet) -> list[str]:
    """Names of the indices that a band set has the bands for."""
    return [i.name for i in _ALL if i.first.position(bands) is not None and i.second.position(bands) is not None]


def get_index(name: str) -> SpectralIndex:
    """An index by name, in whatever case.

    Raises:
        UnknownNameError: If there is no such index.
    """
    if name.lower() not in INDICES:
        raise UnknownNameError("spectral index", name, INDICES)
    return INDICES[name.lower()]


def index_bands(name: str, bands: BandSet) -> tuple[int, int]:
    """Positions of the two bands of an index: the one that raises it, then the one that lowers it.

    Raises:
        UnknownNameError: If there is no such index.
        BandError: If a band that it needs is missing; the message names it.
    """
    index = get_index(name)
    first, second = index.first.position(bands), index.second.position(bands)
    if first is None or second is None:
        lacking = [r for r, place in ((index.first, first), (index.second, second)) if place is None]
        wanted = " and ".join(f"a {r.title} band (near {r.centre:g} µm)" for r in lacking)
        known = ", ".join(available(bands)) or "none"
        raise BandError(
            f"{index.title} needs {wanted}, which sensor '{bands.sensor}' with bands {', '.join(bands.names)} lacks; "
            f"choose other bands (data.bands in a config) or another index (possible here: {known})"
        )
    return first, second


def spectral_index(name: str, images: NDArray[Any], bands: BandSet) -> NDArray[np.float32]:
    """An index of every pixel, from reflectances.

    Sensor units are brought to physical ones first, as a summand changes the ratio. Reflectances below
    zero, which atmospheric correction leaves over dark water, count as zero, so that every value lies
    between -1 and 1. Where both bands are zero neither is brighter, and the index is 0.

    Args:
        name: One of :func:`list_indices`.
        images: Chips of shape (..., B, H, W) in sensor units.
        bands: Their bands.

    Returns:
        Values between -1 and 1 of shape (..., H, W), float32; NaN where a band has no measurement.

    Raises:
        UnknownNameError: If there is no such index.
        BandError: If a band is missing, or the images differ from the band set in number of bands.
    """
    first, second = index_bands(name, bands)
    images = np.asarray(images)
    if images.ndim < 3 or images.shape[-3] != len(bands):
        raise BandError(
            f"images of shape {images.shape} do not fit the {len(bands)} band(s) of sensor '{bands.sensor}' "
            f"({', '.join(bands.names)}); expected (..., {len(bands)}, H, W)"
        )
    high, low = (_reflectance(images[..., place, :, :], bands) for place in (first, second))
    total = high + low
    difference = np.where(np.isnan(total), np.nan, 0.0)
    np.divide(high - low, total, out=difference, where=total > 0)
    return difference.astype(np.float32)


def index_values(name: str, images: NDArray[Any], bands: BandSet) -> NDArray[np.float32]:
    """A spectral index of all measured pixels of some chips, (pixels,).

    Arguments and errors as of :func:`spectral_index`.
    """
    values = spectral_index(name, images, bands)
    return np.asarray(values[np.isfinite(values)])


def _reflectance(values: NDArray[Any], bands: BandSet) -> NDArray[np.float64]:
    """Physical values of one band, not below zero; NaN where there is no measurement."""
    physical = values.astype(np.float64) * bands.scale + bands.offset
    missing = ~np.isfinite(physical)
    if bands.nodata is not None:
        missing |= values == bands.nodata
    return np.where(missing, np.nan, np.maximum(physical, 0.0))
