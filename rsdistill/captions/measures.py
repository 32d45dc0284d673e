"""What can be measured of a chip without a model: colour, brightness, texture, direction."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsdistill.bands import NATURAL_COLOUR, BandSet
from rsdistill.indices import available, spectral_index

Measures = dict[str, NDArray[np.float64]]


def measure(images: NDArray[Any], bands: BandSet) -> Measures:
    """Numbers that describe chips, each the same whichever way a chip is turned or flipped.

    Args:
        images: Chips of shape (n, B, H, W) in sensor units.
        bands: Their bands.

    Returns:
        Measures by name, each (n,): ``vegetation`` (mean NDVI, or excess green of colour chips), ``water`` (share of
        pixels with NDWI above 0; only where there is near infrared), ``blue`` (excess blue; only where there is not),
        ``warmth`` (red against blue), ``brightness``, ``contrast`` (spread over mean), ``fineness`` (gradient over
        spread) and ``linearity`` (coherence of the structure tensor; 1 where all edges run the same way).
    """
    colour = _natural(images, bands)
    red, green, blue = colour[:, 0], colour[:, 1], colour[:, 2]
    grey = colour.mean(axis=1)
    level, spread = _mean(grey), grey.std(axis=(1, 2))
    across, down = np.gradient(grey, axis=2), np.gradient(grey, axis=1)
    energy = across**2 + down**2
    known = available(bands)
    if "ndvi" in known and "ndwi" in known:
        ndvi, ndwi = (np.nan_to_num(spectral_index(name, images, bands)) for name in ("ndvi", "ndwi"))
        land = {"vegetation": _mean(ndvi), "water": _mean(ndwi > 0)}
    else:
        total = red + green + blue
        land = {
            "vegetation": _mean(_ratio(2 * green - red - blue, total)),
            "blue": _mean(_ratio(2 * blue - red - green, total)),
        }
    return {
        **land,
        "warmth": _mean(_ratio(red - blue, red + blue)),
        "brightness": level,
        "contrast": _ratio(spread, level),
        "fineness": _ratio(np.sqrt(_mean(energy)), spread),
        "linearity": _ratio(np.hypot(_mean(across**2 - down**2), _mean(2 * across * down)), _mean(energy)),
    }


def _natural(images: NDArray[Any], bands: BandSet) -> NDArray[np.float64]:
    """Red, green and blue in physical values, (n, 3, H, W); 0 where nothing was measured."""
    chosen = np.asarray(images)[:, bands.composite(NATURAL_COLOUR)].astype(np.float64)
    missing = ~np.isfinite(chosen)
    if bands.nodata is not None:
        missing |= chosen == bands.nodata
    return np.where(missing, 0.0, np.maximum(chosen * bands.scale + bands.offset, 0.0))


def _mean(values: NDArray[Any]) -> NDArray[np.float64]:
    """Mean over the pixels of each chip."""
    return np.asarray(values.mean(axis=(1, 2)), np.float64)


def _ratio(part: NDArray[np.float64], whole: NDArray[np.float64]) -> NDArray[np.float64]:
    """Quotient, 0 where there is nothing to divide by."""
    return np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)
