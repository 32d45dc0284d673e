"""What each detector measures on an image: one pass over the training chips of its class, in blocks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from rsdistill.audit.features import FeatureKind, Features, create_features
from rsdistill.bands import BandSet
from rsdistill.datasets.base import SceneData, SceneView
from rsdistill.evaluation.leakage import SIZE
from rsdistill.imaging.normalisation import StandardNormalisation
from rsdistill.imaging.pixels import blocks, dihedral_views, resize, shrink, spread
from rsdistill.imaging.similarity import NEIGHBOURS, Structure, copy_ratios, mean_of_finite, ssim

FloatArray = NDArray[np.float64]

# Symmetries of the square: four quarter turns, mirrored or not.
SYMMETRIES = 8
# Neighbours that the nearest one is held against: few, so that it need not be far off from all the class, and more
# than one, so that a second view of the same place does not hide it.
RIVALS = 3
# Correlations nearer to 1 than this are equal copies; rounding alone moves them so far.
_HIGHEST = 1.0 - 1e-5


class Matches:
    """The largest similarities of each query so far, and which real chips they belong to.

    Args:
        queries: Number of queries.
        keep: Similarities kept of each.

    Attributes:
        similarity: Falling from the largest, (queries, keep); minus infinity where there are fewer chips.
        position: Positions of the chips, (queries, keep); -1 where there are fewer.
    """

    def __init__(self, queries: int, keep: int) -> None:
        self.similarity = torch.full((queries, keep), -torch.inf)
        self.position = torch.full((queries, keep), -1, dtype=torch.int64)

    def add(self, rows: slice, similarity: torch.Tensor, positions: NDArray[np.int64]) -> None:
        """Take in the similarities (rows, chips) of some queries to some chips."""
        keep = self.similarity.shape[1]
        named = torch.from_numpy(positions).expand(len(similarity), -1)
        joined = torch.cat([self.similarity[rows], similarity], dim=1)
        self.similarity[rows], order = joined.topk(keep, dim=1)
        self.position[rows] = torch.cat([self.position[rows], named], dim=1).gather(1, order)

    @property
    def all(self) -> FloatArray:
        """All similarities kept, (queries, keep)."""
        return self.similarity.double().numpy()

    @property
    def best(self) -> FloatArray:
        """Largest similarity of each query, (queries,)."""
        return self.similarity[:, 0].double().numpy()

    @property
    def nearest(self) -> NDArray[np.int64]:
        """Position of the most similar chip of each query, (queries,)."""
        return self.position[:, 0].numpy()

    def stand_out(self) -> FloatArray:
        """How far the nearest chip stands out from the next three, (queries,).

        Correlations are compared after Fisher's transform, which gives them the same spread whatever their
        size: images of a uniform class are alike without one being a copy, and a copy is like one far more
        than like the next.

        Source: Fisher, On the probable error of a coefficient of correlation, 1921.
        """
        fisher = torch.atanh(self.similarity[:, : 1 + RIVALS].clamp(-_HIGHEST, _HIGHEST)).double()
        found = torch.isfinite(self.similarity[:, 1 : 1 + RIVALS])
        rivals = torch.where(found, fisher[:, 1:], 0.0).sum(1) / found.sum(1).clamp_min(1)
        return (fisher[:, 0] - rivals).numpy()


def unit_vectors(images: torch.Tensor) -> torch.Tensor:
    """Images (..., B, S, S) as vectors (..., B*S*S) whose products are correlations; a constant image becomes 0."""
    centred = images - images.mean((-2, -1), keepdim=True)
    return functional.normalize(centred.flatten(-3), dim=-1)


def distances(similarity: FloatArray) -> FloatArray:
    """Correlations as distances of the unit vectors, 0 for copies to 2 for opposites; infinite where there is none."""
    return np.sqrt(np.maximum(2.0 - 2.0 * similarity, 0.0))


# Side in pixels at which a quadrant is compared.
_SIDE = 8
QUADRANTS = 4


def quadrants(images: torch.Tensor) -> torch.Tensor:
    """Small copies of the quadrants of images (n, B, H, W), of shape (n * 4, B, 8, 8)."""
    small = torch.nan_to_num(resize(images, 2 * _SIDE))
    parts = [small[..., top : top + _SIDE, left : left + _SIDE] for top in (0, _SIDE) for left in (0, _SIDE)]
    return torch.stack(parts, dim=1).flatten(0, 1)


def windows(images: torch.Tensor) -> torch.Tensor:
    """All windows of images (n, B, H, W) at nine scales as unit vectors (n, 285, B * 64).

    Shrinking the chip to R pixels makes a window of 8 pixels show 8/R of its side: R = 16 is a quarter of the
    chip as large as a quadrant, R = 8 the whole chip.
    """
    found = []
    for side in range(_SIDE, 2 * _SIDE + 1):
        small = torch.nan_to_num(resize(images, side))
        cut = small.unfold(2, _SIDE, 1).unfold(3, _SIDE, 1)
        found.append(cut.permute(0, 2, 3, 1, 4, 5).flatten(1, 2))
    return unit_vectors(torch.cat(found, dim=1))


def patch_similarity(parts: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
    """Largest correlation of each quadrant with a window of each chip, over all symmetries.

    Args:
        parts: From :func:`quadrants`, (n * 4, B, 8, 8).
        real: From :func:`windows`, (m, w, B * 64).

    Returns:
        Similarities of shape (n * 4, m).
    """
    flat = real.flatten(0, 1).T
    best = torch.full((len(parts), len(real)), -torch.inf)
    for turned in dihedral_views(parts):
        found = (unit_vectors(turned) @ flat).view(len(parts), *real.shape[:2])
        best = torch.maximum(best, found.amax(2))
    return best


# Side at which blends with noise are compared: the means of so large cells carry hardly any noise.
_COARSE = 8
_SSIM_NEIGHBOURS = 5
_STATISTICS_CHIPS = 512
# Real chips and queries compared at a time; they bound the memory.
_REAL, _QUERIES = 64, 64
# Bins of the cosines between different real images, from -1 to 1.
_BINS = 4000


@dataclass(frozen=True, eq=False)
class Measurements:
    """What the detectors measured on some images, an array (n,) each unless said otherwise.

    Attributes:
        distance: Distance to the nearest training chip in pixels, 0 to 2.
        copy_ratio: That distance over the mean distance to the 50 nearest.
        blend: How far the nearest chip stands out from the next at 8 px.
        patches: How far the nearest windows stand out, mean over the quadrants.
        feature: Largest cosine of features with a training chip.
        feature_ratio: Copy ratio in features.
        ssim: Mean structural similarity to the 5 most similar training chips.
        pixel_similarity: Correlation with the nearest training chip.
        nearest: Position of the training chip nearest at 8 px, int64.
        nearest_patch: Position of the training chip whose window fits a quadrant best, int64.
        cosines: Counts of the cosines with all training chips, in 4,000 bins from -1 to 1, (4000,).
    """

    distance: FloatArray
    copy_ratio: FloatArray
    blend: FloatArray
    patches: FloatArray
    feature: FloatArray
    feature_ratio: FloatArray
    ssim: FloatArray
    pixel_similarity: FloatArray
    nearest: NDArray[np.int64]
    nearest_patch: NDArray[np.int64]
    cosines: NDArray[np.int64]

    @classmethod
    def joined(cls, parts: Mapping[int, Measurements], labels: NDArray[np.int64]) -> Measurements:
        """Results by class, brought to the order of the labels (n,)."""
        whole: dict[str, Any] = {}
        for part in fields(cls):
            if part.name == "cosines":
                whole["cosines"] = sum(found.cosines for found in parts.values())
                continue
            first = getattr(next(iter(parts.values())), part.name)
            whole[part.name] = np.empty(len(labels), first.dtype)
            for label, found in parts.items():
                whole[part.name][labels == label] = getattr(found, part.name)
        return cls(**whole)


@dataclass(frozen=True)
class ImageProcessor:
    """Brings images to what is compared: small copies and features, by the statistics of one dataset.

    Attributes:
        bands: Bands of the images.
        normalisation: Of the training chips.
        features: Fitted to the training chips.
    """

    bands: BandSet
    normalisation: StandardNormalisation
    features: Features

    @classmethod
    def fit(cls, data: SceneData, kind: FeatureKind) -> ImageProcessor:
        """Normalisation and features by training chips of all classes; errors as of :func:`create_features`."""
        chips = data.train.images(spread(len(data.train), _STATISTICS_CHIPS))
        normalisation = StandardNormalisation.of(shrink(chips, data.bands, SIZE), data.bands)
        return cls(data.bands, normalisation, create_features(kind, data, normalisation))

    def views(self, images: NDArray[Any]) -> _Views:
        """Small copies and features of images (n, B, H, W) in sensor units."""
        own = shrink(images, self.bands, None)
        whole = self.normalisation(own)
        small = resize(whole, SIZE)
        return _Views(own, whole, small, resize(small, _COARSE), _grey(small))


@dataclass(frozen=True)
class _Views:
    """Some images as the detectors see them, (n, B, S, S): in sensor units, normalised, small, tiny, grey."""

    own: torch.Tensor
    whole: torch.Tensor
    small: torch.Tensor
    tiny: torch.Tensor
    grey: torch.Tensor


class _Queries:
    """Images of one class whose neighbours are sought.

    Args:
        images: Images (n, B, H, W) in sensor units.
        processor: How they are looked at.
    """

    def __init__(self, images: NDArray[Any], processor: ImageProcessor) -> None:
        self.count = len(images)
        self._parts = []
        for chosen in blocks(len(images), _QUERIES):
            views = processor.views(images[chosen])
            turned = torch.stack([processor.features(version) for version in dihedral_views(views.own)], dim=1)
            grey = Structure(torch.stack(list(dihedral_views(views.grey)), dim=1))
            rows = slice(int(chosen[0]), int(chosen[-1]) + 1)
            self._parts.append((rows, views.small, views.tiny, quadrants(views.whole), turned, grey))

    def __iter__(self) -> Iterator[tuple[slice, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, Structure]]:
        """Rows; small and tiny copies; quadrants; features (n, 8, D) and grey copies (n, 8, S, S) of all symmetries."""
        return iter(self._parts)


def measure(
    images: NDArray[Any], labels: NDArray[np.int64], data: SceneData, processor: ImageProcessor
) -> Measurements:
    """Let every detector measure images against the training chips of their classes.

    Args:
        images: Images (n, B, H, W) in sensor units.
        labels: Their classes in ``data``, (n,); each has training chips.
        data: The dataset.
        processor: How images are looked at.
    """
    parts = {}
    for label in np.unique(labels).tolist():
        parts[label] = _measure_class(_Queries(images[labels == label], processor), label, data, processor)
    return Measurements.joined(parts, labels)


def measure_beside_held_out(
    images: NDArray[Any], labels: NDArray[np.int64], data: SceneData, processor: ImageProcessor
) -> tuple[Measurements, tuple[FloatArray, FloatArray]]:
    """As :func:`measure`, with the largest similarity to held-out chips in pixels and in features, (n,) each."""
    parts = {}
    held_out = np.empty(len(labels)), np.empty(len(labels))
    for label in np.unique(labels).tolist():
        queries, members = _Queries(images[labels == label], processor), labels == label
        parts[label] = _measure_class(queries, label, data, processor)
        held_out[0][members], held_out[1][members] = _held_out_similarity(queries, label, data, processor)
    return Measurements.joined(parts, labels), held_out


def class_blocks(view: SceneView, label: int) -> Iterator[tuple[NDArray[np.int64], NDArray[Any]]]:
    """Positions and chips of one class of a view, some at a time."""
    members = np.flatnonzero(view.labels == label)
    for part in blocks(len(members), _REAL):
        yield members[part], view.images(members[part])


def _measure_class(queries: _Queries, label: int, data: SceneData, processor: ImageProcessor) -> Measurements:
    count = queries.count
    pixels, features = Matches(count, NEIGHBOURS), Matches(count, NEIGHBOURS)
    tiny, structure = Matches(count, 1 + RIVALS), Matches(count, _SSIM_NEIGHBOURS)
    parts = Matches(count * QUADRANTS, 1 + RIVALS)
    histogram = np.zeros(_BINS, np.int64)
    for positions, chips in class_blocks(data.train, label):
        real = processor.views(chips)
        small, coarse, cut = unit_vectors(real.small), unit_vectors(real.tiny), windows(real.whole)
        known, grey = processor.features(real.own), Structure(real.grey)
        for rows, query, query_tiny, query_parts, turned, query_grey in queries:
            found = _correlations(query, small)
            best, symmetry = found.max(0)
            pixels.add(rows, best, positions)
            tiny.add(rows, _correlations(query_tiny, coarse).amax(0), positions)
            cosines = _cosines(turned, known)
            features.add(rows, cosines, positions)
            histogram += np.histogram(cosines.numpy(), bins=_BINS, range=(-1.0, 1.0 + 1e-6))[0]
            structure.add(rows, _aligned_ssim(query_grey, grey, symmetry), positions)
            four = slice(rows.start * QUADRANTS, rows.stop * QUADRANTS)
            parts.add(four, patch_similarity(query_parts, cut), positions)
    by_quadrant = parts.stand_out().reshape(count, QUADRANTS)
    nearest_parts = parts.nearest.reshape(count, QUADRANTS)
    return Measurements(
        distance=distances(pixels.all)[:, 0],
        copy_ratio=copy_ratios(distances(pixels.all)),
        blend=tiny.stand_out(),
        patches=by_quadrant.mean(1),
        feature=features.best,
        feature_ratio=copy_ratios(distances(features.all)),
        ssim=mean_of_finite(structure.all),
        pixel_similarity=pixels.best,
        nearest=tiny.nearest,
        nearest_patch=nearest_parts[np.arange(count), by_quadrant.argmax(1)],
        cosines=histogram,
    )


def _held_out_similarity(
    queries: _Queries, label: int, data: SceneData, processor: ImageProcessor
) -> tuple[FloatArray, FloatArray]:
    pixels, features = Matches(queries.count, 1), Matches(queries.count, 1)
    for view in (data.val, data.test):
        for positions, chips in class_blocks(view, label):
            real = processor.views(chips)
            small, known = unit_vectors(real.small), processor.features(real.own)
            for rows, query, _, _, turned, _ in queries:
                pixels.add(rows, _correlations(query, small).amax(0), positions)
                features.add(rows, _cosines(turned, known), positions)
    return pixels.best, features.best


def _correlations(query: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
    """Correlations (8, n, m) of the symmetries of images (n, B, S, S) with unit vectors (m, D)."""
    return torch.stack([unit_vectors(version) @ real.T for version in dihedral_views(query)])


def _cosines(turned: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
    """Largest cosines (n, m) of features (n, 8, D) with features (m, D)."""
    found: torch.Tensor = (turned.flatten(0, 1) @ real.T).view(len(turned), SYMMETRIES, len(real)).amax(1)
    return found


def _aligned_ssim(query: Structure, real: Structure, symmetry: torch.Tensor) -> torch.Tensor:
    """SSIM (n, m) of each pair in the symmetry (n, m) in which their pixels correlate most."""
    rows = []
    for row, turns in enumerate(symmetry):
        version = query.at((torch.full_like(turns, row), turns))
        rows.append(ssim(version, real))
    return torch.stack(rows)


def _grey(small: torch.Tensor) -> torch.Tensor:
    """Mean over the bands, brought from two deviations around the mean to 0 to 1."""
    return (small.mean(1) / 4.0 + 0.5).clamp(0.0, 1.0)
