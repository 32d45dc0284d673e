"""How a distilled set agrees with the real chips of each class: mean spectra and distributions of indices.

No pair of images is compared here: a set may agree in full without repeating a chip.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsdistill.audit.alignment import aligned
from rsdistill.audit.pixels import class_chips
from rsdistill.bands import BandSet, check_count
from rsdistill.datasets.base import SceneData
from rsdistill.distilled import DistilledSet
from rsdistill.indices import available, spectral_index

# Real chips a class that mean spectra and distributions are taken from.
AGREEMENT_CHIPS = 64


@dataclass(frozen=True)
class ClassAgreement:
    """Agreement of one class.

    Attributes:
        key: Key of the class.
        correlation: Pearson correlation over the bands of both mean spectra; None where it is not defined.
        distance: Root mean square difference of both mean spectra over the bands, physical units; None
            where no band is measured in both.
        indices: Wasserstein-1 distance between the pixels' values of each spectral index that the bands
            allow, in units of the index; None where one side has no measurement.
    """

    key: str
    correlation: float | None
    distance: float | None
    indices: dict[str, float | None]

    def to_dict(self) -> dict[str, Any]:
        """Plain types for JSON."""
        return asdict(self)


def class_agreement(
    tiles: DistilledSet, data: SceneData, classes: Sequence[str] | None = None, chips: int = AGREEMENT_CHIPS
) -> tuple[ClassAgreement, ...]:
    """Compare each class of a set with its real training chips.

    Args:
        tiles: The distilled set.
        data: The dataset that it was made from.
        classes: Keys of the classes; None for all that the set has.
        chips: Most real chips a class, spread evenly over them.

    Returns:
        One agreement a class, in the order of the labels or as asked for.

    Raises:
        BandError: If set and dataset differ in bands.
        UnknownNameError: If a class is unknown.
    """
    tiles = aligned(tiles, data)
    labels = np.unique(tiles.label).tolist() if classes is None else [data.class_index(key) for key in classes]
    found = []
    for label in labels:
        real, made = class_chips(data.train, label, chips), tiles.image[tiles.label == label]
        distances = {name: index_distance(name, real, made, data.bands) for name in available(data.bands)}
        found.append(
            ClassAgreement(
                data.classes[label].key,
                _known(spectrum_correlation(real, made, data.bands)),
                _known(spectrum_distance(real, made, data.bands)),
                {name: _known(distance) for name, distance in distances.items()},
            )
        )
    return tuple(found)


def chip_spectra(images: NDArray[Any], bands: BandSet) -> NDArray[np.float64]:
    """Mean spectrum of each chip over its measured pixels.

    Args:
        images: Chips of shape (n, B, H, W) in sensor units.
        bands: Their bands.

    Returns:
        Physical values (n, B); NaN where a chip has no measurement of a band.

    Raises:
        BandError: If the chips differ from the band set in number of bands.
    """
    check_count(np.shape(images)[1], bands, "a stack of chips")
    values = np.asarray(images, np.float64)
    valid = np.isfinite(values)
    if bands.nodata is not None:
        valid &= values != bands.nodata
    means = _mean(np.where(valid, values, np.nan), axes=(2, 3))
    return np.asarray(means * bands.scale + bands.offset)


def mean_spectrum(images: NDArray[Any], bands: BandSet) -> NDArray[np.float64]:
    """Mean over chips of their spectra, (B,): every chip counts alike. Arguments as of :func:`chip_spectra`."""
    return _mean(chip_spectra(images, bands), axes=(0,))


def spectrum_correlation(real: NDArray[Any], made: NDArray[Any], bands: BandSet) -> float:
    """Pearson correlation over the bands of the mean spectra of two stacks of chips.

    Args:
        real: Chips of shape (n, B, H, W) in sensor units.
        made: Chips of shape (m, B, H', W') in sensor units.
        bands: Their bands.

    Returns:
        Correlation from -1 to 1; NaN with fewer than two bands measured in both, or where a spectrum is flat.

    Raises:
        BandError: If the chips differ from the band set in number of bands.
    """
    spectra = _common_spectra(real, made, bands)
    if spectra.shape[1] < 2 or not np.ptp(spectra, axis=1).all():
        return float("nan")
    return float(np.asarray(np.corrcoef(spectra))[0, 1])


def spectrum_distance(real: NDArray[Any], made: NDArray[Any], bands: BandSet) -> float:
    """Root mean square difference over the bands of the mean spectra of two stacks of chips, physical units.

    NaN where no band is measured in both. Arguments and errors as of :func:`spectrum_correlation`.
    """
    spectra = _common_spectra(real, made, bands)
    return float(np.sqrt(np.mean((spectra[0] - spectra[1]) ** 2))) if spectra.size else float("nan")


def index_distance(name: str, real: NDArray[Any], made: NDArray[Any], bands: BandSet) -> float:
    """Wasserstein-1 distance between the pixels' values of a spectral index in two stacks of chips.

    It is the mean shift that would turn one distribution into the other.

    Args:
        name: One of :func:`rsdistill.indices.list_indices`.
        real: Chips of shape (n, B, H, W) in sensor units.
        made: Chips of shape (m, B, H', W') in sensor units.
        bands: Their bands.

    Returns:
        Distance from 0 to 2; NaN where one side has no measurement.

    Raises:
        UnknownNameError: If there is no such index.
        BandError: If a band is missing, or the chips differ from the band set in number of bands.
    """
    from scipy.stats import wasserstein_distance

    values = [index_values(name, images, bands) for images in (real, made)]
    return float(wasserstein_distance(*values)) if all(len(v) for v in values) else float("nan")


def index_values(name: str, images: NDArray[Any], bands: BandSet) -> NDArray[np.float32]:
    """A spectral index of all measured pixels of some chips, (pixels,).

    Arguments and errors as of :func:`rsdistill.indices.spectral_index`.
    """
    values = spectral_index(name, images, bands)
    return np.asarray(values[np.isfinite(values)])


def _common_spectra(real: NDArray[Any], made: NDArray[Any], bands: BandSet) -> NDArray[np.float64]:
    """Both mean spectra at the bands that both measured, (2, bands)."""
    spectra = np.stack([mean_spectrum(real, bands), mean_spectrum(made, bands)])
    return np.asarray(spectra[:, np.isfinite(spectra).all(axis=0)])


def _mean(values: NDArray[np.float64], axes: tuple[int, ...]) -> NDArray[np.float64]:
    """Mean without NaN; NaN where nothing else is."""
    valid = np.isfinite(values)
    total, counts = np.where(valid, values, 0.0).sum(axis=axes), valid.sum(axis=axes)
    means = np.full(total.shape, np.nan)
    np.divide(total, counts, out=means, where=counts > 0)
    return means


def _known(value: float) -> float | None:
    return None if np.isnan(value) else value
