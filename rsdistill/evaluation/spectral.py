"""How near chips come to a reference, band by band and spectrum by spectrum.

Plain functions of numpy arrays in sensor units. All compare physical values (reflectance where the sensor
is calibrated), pass over pixels where the reference has no measurement, and count whatever the estimate
holds elsewhere. Set against torchmetrics in the tests.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rsdistill.bands import BandSet, check_count
from rsdistill.datasets.base import SceneData
from rsdistill.datasets.real_chips import class_chips
from rsdistill.distilled import DistilledSet
from rsdistill.errors import BandError, OptionError
from rsdistill.evaluation.leakage import aligned
from rsdistill.imaging.similarity import WINDOW, Structure, spectral_angles, ssim_map, whole_windows
from rsdistill.imaging.spectral_indices import available, index_values, spectral_index

# One chip: reference and estimate in physical units and where the reference is measured, (B, H, W) each.
_Pair = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]


def psnr_per_band(
    reference: NDArray[Any], estimate: NDArray[Any], bands: BandSet, data_range: float | None = None
) -> NDArray[np.float64]:
    """Peak signal-to-noise ratio of each band in decibel, from its squared error over all pixels of all chips.

    Args:
        reference: Chips of shape (N, B, H, W) in sensor units.
        estimate: Chips of the same shape in sensor units, of any real type.
        bands: Their bands.
        data_range: Peak signal in physical units; None for :func:`signal_range`.

    Returns:
        Ratio of each band (B,); infinite where both are equal, NaN where a band has no measurement.

    Raises:
        BandError: If the chips differ from the band set in number of bands.
        OptionError: If the shapes differ, the estimate holds NaN, or the range is not positive.
    """
    peak = _peak(data_range, bands)
    errors, counts = np.zeros(len(bands)), np.zeros(len(bands))
    for truth, guess, valid in _pairs(reference, estimate, bands):
        errors += ((guess - truth) ** 2).sum(axis=(1, 2), where=valid)
        counts += valid.sum(axis=(1, 2))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(10 * np.log10(peak**2 * counts / errors))


def ssim_per_band(
    reference: NDArray[Any], estimate: NDArray[Any], bands: BandSet, data_range: float | None = None
) -> NDArray[np.float64]:
    """Structural similarity of each band: mean over all windows that lie inside a chip and are measured throughout.

    Windows are Gaussian, of standard deviation 1.5 pixels and 11 pixels a side. Arguments and errors as of
    :func:`psnr_per_band`.
    Source: Wang et al., Image quality assessment: from error visibility to structural similarity, 2004.

    Returns:
        Similarity of each band (B,), at most 1; NaN where a band has no complete window.

    Raises:
        OptionError: Also if the chips are smaller than a window.
    """
    peak = _peak(data_range, bands)
    height, width = np.shape(reference)[-2:]
    if min(height, width) < WINDOW:
        raise OptionError(
            f"chips of {height} x {width} pixels are smaller than a window of the structural similarity "
            f"({WINDOW} x {WINDOW}); use larger chips"
        )
    total, counts = np.zeros(len(bands)), np.zeros(len(bands))
    for truth, guess, valid in _pairs(reference, estimate, bands):
        whole = whole_windows(valid)
        alike = ssim_map(Structure(torch.from_numpy(truth)), Structure(torch.from_numpy(guess)), peak)
        total += alike.numpy().sum(axis=(1, 2), where=whole)
        counts += whole.sum(axis=(1, 2))
    return _quotient(total, counts)


def spectral_angle(reference: NDArray[Any], estimate: NDArray[Any], bands: BandSet) -> float:
    """Mean angle between the spectra of reference and estimate in degrees, over pixels measured in every band.

    It tells a wrong colour from a wrong brightness. A spectrum of zeros has no direction: it lies at 90
    degrees from every other, and at 0 from another one of zeros.
    Source: Yuhas, Goetz and Boardman, Discrimination among semi-arid landscape endmembers using the
    spectral angle mapper algorithm, 1992.

    Arguments and errors as of :func:`psnr_per_band`.

    Returns:
        Angle from 0 (the same spectra up to brightness) to 180; NaN if no pixel is measured in every band.

    Raises:
        BandError: Also if there is one band only.
    """
    if len(bands) < 2:
        raise BandError(f"a spectral angle needs two or more bands; sensor '{bands.sensor}' has {bands.names[0]} only")
    total, count = 0.0, 0
    for truth, guess, valid in _pairs(reference, estimate, bands):
        inside = valid.all(axis=0)
        spectra = (torch.from_numpy(side[:, inside].T) for side in (truth, guess))
        total += float(spectral_angles(*spectra).sum())
        count += int(inside.sum())
    return float(np.degrees(total / count)) if count else float("nan")


def ergas(reference: NDArray[Any], estimate: NDArray[Any], bands: BandSet) -> float:
    """Relative dimensionless global error in synthesis (ERGAS): errors of all bands relative to their means.

    Mean over chips of 100 sqrt(mean over bands of (RMSE / mean of the reference)²), for chips of one
    resolution; 0 is perfect. Source: Wald, Quality of high resolution synthesised images: is there a
    simple criterion?, 2000. Arguments and errors as of :func:`psnr_per_band`.

    Returns:
        The error; bands that a chip has no measurement of are left out of its mean. NaN without a measurement.

    Raises:
        BandError: Also if a band's mean is zero in a chip, which no error can be set in relation to.
    """
    found = []
    for position, (truth, guess, valid) in enumerate(_pairs(reference, estimate, bands)):
        counts = valid.sum(axis=(1, 2))
        means = _quotient(truth.sum(axis=(1, 2), where=valid), counts)
        if (means == 0).any():
            band = bands.names[int(np.flatnonzero(means == 0)[0])]
            raise BandError(
                f"band '{band}' has the mean 0 in chip {position}, where ERGAS is not defined; leave it out"
            )
        squared = _quotient(((guess - truth) ** 2).sum(axis=(1, 2), where=valid), counts)
        if counts.any():
            found.append(100 * np.sqrt(np.nanmean(squared / means**2)))
    return float(np.mean(found)) if found else float("nan")


def index_error(name: str, reference: NDArray[Any], estimate: NDArray[Any], bands: BandSet) -> float:
    """Mean absolute error of a spectral index over all measured pixels.

    Args:
        name: One of :func:`rsdistill.imaging.spectral_indices.list_indices`, such as ``"ndvi"``.
        reference: As of :func:`psnr_per_band`, as are the errors and the next two.
        estimate: Chips of the same shape.
        bands: Their bands.

    Returns:
        Error from 0 to 2; NaN if no pixel is measured in both bands of the index.

    Raises:
        UnknownNameError: If there is no such index.
        BandError: Also if the index needs a band that is missing.
    """
    reference, estimate = _fitting(reference, estimate, bands)
    truth = spectral_index(name, reference, bands)
    # An estimate that happens to be the nodata value is wrong, not missing.
    difference = np.abs(spectral_index(name, estimate, replace(bands, nodata=None)) - truth)
    return float(np.nanmean(difference)) if np.isfinite(difference).any() else float("nan")


def signal_range(bands: BandSet) -> float:
    """Range of the signal in physical units: reflectance 0 to 1 of calibrated sensors, else the valid range."""
    low, high = bands.valid_range
    return 1.0 if bands.scale != 1.0 else (high - low)


def _pairs(reference: NDArray[Any], estimate: NDArray[Any], bands: BandSet) -> Iterator[_Pair]:
    """Chip by chip, so that memory stays that of one chip in float64."""
    reference, estimate = _fitting(reference, estimate, bands)
    for truth, guess in zip(reference, estimate, strict=True):
        valid = _measured(truth, bands)
        yield _physical(np.where(valid, truth, 0), bands), _physical(guess, bands), valid


def _fitting(reference: NDArray[Any], estimate: NDArray[Any], bands: BandSet) -> tuple[NDArray[Any], NDArray[Any]]:
    """Both as arrays, after a look at their shapes and at what is no number."""
    reference, estimate = np.asarray(reference), np.asarray(estimate)
    if reference.ndim != 4 or reference.shape != estimate.shape or not reference.size:
        raise OptionError(
            f"reference {reference.shape} and estimate {estimate.shape} do not pair; give both as (N, B, H, W)"
        )
    if reference.shape[1] != len(bands):
        raise BandError(
            f"chips have {reference.shape[1]} band(s), sensor '{bands.sensor}' has {len(bands)} "
            f"({', '.join(bands.names)}); select the bands that the chips hold"
        )
    finite = np.isfinite(estimate).all(axis=(0, 2, 3))
    if not finite.all():
        band = bands.names[int(np.flatnonzero(~finite)[0])]
        raise OptionError(f"the estimate of band '{band}' holds values that are NaN or infinite; it cannot be judged")
    return reference, estimate


def _measured(values: NDArray[Any], bands: BandSet) -> NDArray[np.bool_]:
    """Which pixels hold a measurement."""
    return np.asarray(np.isfinite(values) & (True if bands.nodata is None else values != bands.nodata))


def _physical(values: NDArray[Any], bands: BandSet) -> NDArray[np.float64]:
    return np.asarray(values.astype(np.float64) * bands.scale + bands.offset)


def _peak(data_range: float | None, bands: BandSet) -> float:
    peak = signal_range(bands) if data_range is None else data_range
    if not peak > 0:
        raise OptionError(f"data_range is {peak}; give the range of the signal in physical units, more than 0")
    return peak


def _quotient(total: NDArray[Any], counts: NDArray[Any]) -> NDArray[np.float64]:
    """Mean of each band; NaN where nothing was counted."""
    means = np.full(total.shape, np.nan)
    np.divide(total, counts, out=means, where=counts > 0)
    return means


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
    means = finite_mean(np.where(_measured(values, bands), values, np.nan), axes=(2, 3))
    return _physical(means, bands)


def mean_spectrum(images: NDArray[Any], bands: BandSet) -> NDArray[np.float64]:
    """Mean over chips of their spectra, (B,): every chip counts alike. Arguments as of :func:`chip_spectra`."""
    return finite_mean(chip_spectra(images, bands), axes=(0,))


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
        name: One of :func:`rsdistill.imaging.spectral_indices.list_indices`.
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


def _common_spectra(real: NDArray[Any], made: NDArray[Any], bands: BandSet) -> NDArray[np.float64]:
    """Both mean spectra at the bands that both measured, (2, bands)."""
    spectra = np.stack([mean_spectrum(real, bands), mean_spectrum(made, bands)])
    return np.asarray(spectra[:, np.isfinite(spectra).all(axis=0)])


def finite_mean(values: NDArray[np.float64], axes: tuple[int, ...]) -> NDArray[np.float64]:
    """Mean without NaN; NaN where nothing else is."""
    valid = np.isfinite(values)
    return _quotient(np.where(valid, values, 0.0).sum(axis=axes), valid.sum(axis=axes))


def _known(value: float) -> float | None:
    return None if np.isnan(value) else value
