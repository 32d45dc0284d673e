"""A dataset as one array on disk: read by many workers at once, without decoding, cropping or resampling again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm

from rsdistill.bands import BandSet
from rsdistill.classes import ClassInfo
from rsdistill.datasets.base import SceneData, SceneSource, SceneView
from rsdistill.datasets.reading import BAR_DELAY, workers
from rsdistill.datasets.splits import class_digests
from rsdistill.errors import ArtifactError, DatasetError, storage_errors
from rsdistill.sensitive.resolved import PolicyRecord
from rsdistill.utils.io import write_json

PERCENTILES = (0.5, 99.5)
# Percentiles come from a regular sample of at most about so many pixels a band.
_SAMPLE = 2_000_000


class BandStatistics:
    """Minimum, maximum, mean, standard deviation and robust range of each band, nodata left out.

    Args:
        bands: The bands of the chips to come.
        pixels: Pixels a band that are to come in all, which sets how densely percentiles are sampled.
    """

    def __init__(self, bands: BandSet, pixels: int) -> None:
        self._bands, self._step = bands, max(1, -(-pixels // _SAMPLE))
        self._moments = [_Moments() for _ in bands]
        self._samples: list[list[NDArray[Any]]] = [[] for _ in bands]

    def update(self, chips: NDArray[Any]) -> None:
        """Take in chips (n, B, H, W)."""
        for band, (moments, sample) in enumerate(zip(self._moments, self._samples, strict=True)):
            values = chips[:, band].ravel()
            if self._bands.nodata is not None:
                values = values[values != self._bands.nodata]
            if values.size:
                moments.update(values.astype(np.float64))
                sample.append(values[:: self._step].copy())

    def compute(self) -> list[dict[str, Any]]:
        """One mapping a band: name, count, min, max, mean, std, low and high (the 0.5 and 99.5 % quantiles).

        A band without a single measurement has the count 0 and None for the rest.
        """
        rows = []
        for name, moments, sample in zip(self._bands.names, self._moments, self._samples, strict=True):
            low, high = np.percentile(np.concatenate(sample), PERCENTILES).tolist() if sample else (None, None)
            rows.append({"name": name, **moments.to_dict(), "low": low, "high": high})
        return rows


class _Moments:
    """Running count, range, mean and sum of squared deviations (Chan, Golub and LeVeque 1983)."""

    def __init__(self) -> None:
        self.count, self.mean, self.squares = 0, 0.0, 0.0
        self.low, self.high = np.inf, -np.inf

    def update(self, values: NDArray[np.float64]) -> None:
        """Merge some values in."""
        count, mean = self.count + values.size, float(values.mean())
        shift = mean - self.mean
        self.squares += float(((values - mean) ** 2).sum()) + shift**2 * self.count * values.size / count
        self.mean += shift * values.size / count
        self.count = count
        self.low, self.high = min(self.low, float(values.min())), max(self.high, float(values.max()))

    def to_dict(self) -> dict[str, float | int | None]:
        """Plain numbers for JSON."""
        if not self.count:
            return {"count": 0, "min": None, "max": None, "mean": None, "std": None}
        deviation = float(np.sqrt(self.squares / self.count))
        return {"count": self.count, "min": self.low, "max": self.high, "mean": self.mean, "std": deviation}


CHIPS, INDEX = "chips.npy", "index.json"
_FORMAT = "rsdistill-prepared/1"
_VIEWS = ("train", "val", "test")
_BATCH = 256


class PreparedScenes(SceneSource):
    """Chips of a prepared folder, mapped from disk.

    The folder keeps no names of the original files: a chip's id is its running number.

    Args:
        folder: What :func:`prepare` wrote.

    Raises:
        ArtifactError: If the folder is missing, damaged or of another kind.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        index = _read_index(self.folder)
        self.name, self.licence, self.citation = index["name"], index["licence"], index["citation"]
        self.gsd = float(index["gsd"])
        self.bands = BandSet.from_dict(index["bands"])
        self.classes = tuple(ClassInfo(**info) for info in index["classes"])
        self.labels = np.array(index["labels"], np.int64)
        self.chip_ids = index["chip_ids"]
        self.policy = None if index.get("policy") is None else PolicyRecord.from_dict(index["policy"])
        self.views = {view: np.array(index["splits"][view], np.int64) for view in _VIEWS}
        self._groups = np.array(index["duplicate_groups"], np.int64)
        self._train_digests: dict[str, str] | None = index.get("train_digests")
        self._chips = self._mapped()

    def read(self, index: int) -> NDArray[Any]:
        """One chip (B, H, W) in sensor units; a copy, free to be changed."""
        return np.array(self._chips[index])

    def duplicate_groups(self) -> NDArray[np.int64]:
        """Group number of each chip (N,), as of the original dataset."""
        return self._groups

    def train_digests(self, train: NDArray[np.int64]) -> dict[str, str] | None:
        """Digests by class of the original names of just these train chips (n,), where they were kept."""
        return self._train_digests if np.array_equal(train, self.views["train"]) else None

    def _mapped(self) -> NDArray[Any]:
        """The array on disk, checked against the index."""
        path = self.folder / CHIPS
        try:
            chips: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise ArtifactError(f"{path} cannot be read ({error}); prepare the dataset again") from error
        if chips.shape[:2] != (len(self.labels), len(self.bands)) or chips.dtype != np.dtype(self.bands.dtype):
            raise ArtifactError(
                f"{path} holds {chips.dtype} {chips.shape}, but its {INDEX} speaks of {len(self.labels)} chips of "
                f"{len(self.bands)} band(s) of {self.bands.dtype}; prepare the dataset again"
            )
        return chips

    def __getstate__(self) -> dict[str, Any]:
        """Leave the mapped pixels out, so that loader workers map them themselves."""
        return {**self.__dict__, "_chips": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Map the pixels again in the new process."""
        self.__dict__.update(state)
        self._chips = self._mapped()


def prepare(data: SceneData, folder: str | Path) -> None:
    """Write every chip of the views once, with all that is known of the dataset.

    The folder gets ``chips.npy`` (N, B, H, W) in the sensor's type and ``index.json``, which is
    written last. To make the whole folder appear at once, pass one of ``complete_folder``.

    Args:
        data: What to write.
        folder: Where to; made if need be.

    Raises:
        ChipError: If a chip cannot be read.
        DatasetError: If the chips differ in size.
        StorageError: If the folder cannot be written.
    """
    folder = Path(folder)
    views = {"train": data.train, "val": data.val, "test": data.test}
    kept = np.unique(np.concatenate([view.indices for view in views.values()]))
    splits = {name: np.searchsorted(kept, view.indices) for name, view in views.items()}
    in_train = np.isin(kept, data.train.indices)
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        statistics = _write_chips(folder / CHIPS, data.source, kept, in_train)
    labels = data.source.labels[kept]
    write_json(
        folder / INDEX,
        {
            "format": _FORMAT,
            "name": data.name,
            "licence": data.licence,
            "citation": data.citation,
            "gsd": data.gsd,
            "policy": None if data.policy is None else data.policy.to_dict(),
            "bands": data.bands.to_dict(),
            "classes": [{"key": c.key, "name": c.name, "sector": c.sector} for c in data.classes],
            "counts": {name: _per_class(data, positions, labels) for name, positions in splits.items()},
            "statistics": statistics,
            "train_digests": class_digests(data),
            "splits": {name: positions.tolist() for name, positions in splits.items()},
            "labels": labels.tolist(),
            "duplicate_groups": np.unique(data.source.duplicate_groups()[kept], return_inverse=True)[1].tolist(),
            "chip_ids": [f"{number:06d}" for number in range(len(kept))],
        },
    )


def load_prepared(folder: str | Path) -> SceneData:
    """Open what :func:`prepare` wrote; its views equal those it was written from.

    Raises:
        ArtifactError: If the folder is missing, damaged or of another kind.
    """
    source = PreparedScenes(folder)
    train, val, test = (SceneView(source, source.views[view]) for view in _VIEWS)
    return SceneData(source, train, val, test)


def _read_index(folder: Path) -> dict[str, Any]:
    """The index, checked for its kind."""
    path = folder / INDEX
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{path} cannot be read ({error}); prepare the dataset again") from error
    if not isinstance(index, dict) or index.get("format") != _FORMAT:
        raise ArtifactError(f"{path} is not of format {_FORMAT}; prepare the dataset again with this version")
    return index


def _write_chips(
    path: Path, source: SceneSource, kept: NDArray[np.int64], in_train: NDArray[np.bool_]
) -> list[dict[str, Any]]:
    """Stream chips to disk and learn the statistics of train on the way.

    Plain writes in order rather than a writable map: on a full disk a map kills the process.
    """
    if not len(kept):
        raise DatasetError(f"dataset '{source.name}' has no chips in its views; there is nothing to prepare")
    shape = source.read(int(kept[0])).shape
    statistics = BandStatistics(source.bands, int(in_train.sum()) * shape[1] * shape[2])
    header = {"descr": np.lib.format.dtype_to_descr(np.dtype(source.bands.dtype)), "fortran_order": False}
    with path.open("wb") as stream:
        np.lib.format.write_array_header_2_0(stream, {**header, "shape": (len(kept), *shape)})
        for start, chips in _batches(source, kept, shape):
            stream.write(np.ascontiguousarray(chips).tobytes())
            statistics.update(chips[in_train[start : start + len(chips)]])
    return statistics.compute()


def _batches(
    source: SceneSource, kept: NDArray[np.int64], shape: tuple[int, ...]
) -> Iterator[tuple[int, NDArray[Any]]]:
    """Chips in order, some at a time, read by several threads."""
    with (
        ThreadPoolExecutor(workers()) as pool,
        tqdm(total=len(kept), desc=f"preparing {source.name}", unit="chip", delay=BAR_DELAY) as bar,
    ):
        for start in range(0, len(kept), _BATCH):
            positions = [int(position) for position in kept[start : start + _BATCH]]
            chips = list(pool.map(source.read, positions))
            for position, chip in zip(positions, chips, strict=True):
                if chip.shape != shape or chip.dtype != np.dtype(source.bands.dtype):
                    raise DatasetError(
                        f"chip {source.chip_ids[position]} of {source.name} is {chip.dtype} {chip.shape}, others "
                        f"{source.bands.dtype} {shape}; give option size"
                    )
            yield start, np.stack(chips)
            bar.update(len(chips))


def _per_class(data: SceneData, positions: NDArray[np.int64], labels: NDArray[np.int64]) -> dict[str, int]:
    """Chips of each class in a view."""
    counts = np.bincount(labels[positions], minlength=len(data.classes))
    return {info.key: int(count) for info, count in zip(data.classes, counts, strict=True)}
