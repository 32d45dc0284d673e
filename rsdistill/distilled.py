"""DistilledSet: the one artifact that every method makes and every consumer reads."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rsdistill.bands import BandSet
from rsdistill.classes import ClassInfo
from rsdistill.errors import ArtifactError, BandError, OptionError
from rsdistill.imaging.composites import composite_wavelengths, stretch_limits, to_rgb
from rsdistill.utils.io import complete_file
from rsdistill.utils.provenance import REAL, SYNTHETIC, canonical_json, digest

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure
    from torch.utils.data import TensorDataset

LEVELS = 255


@dataclass(frozen=True, eq=False)
class PackedLabels:
    """Soft labels without their zeros.

    Attributes:
        index: Classes kept of each sample, (n, top), ``uint8`` or ``uint16``.
        weight: Their weights in 255ths, ``uint8`` (n, top); each row sums to 255.
        classes: Number of classes.
    """

    index: NDArray[np.unsignedinteger]
    weight: NDArray[np.uint8]
    classes: int

    @property
    def nbytes(self) -> int:
        """Bytes that they take."""
        return int(self.index.nbytes + self.weight.nbytes)

    def unpack(self) -> NDArray[np.float32]:
        """The same as probabilities of all classes, float32 (n, classes)."""
        dense = np.zeros((len(self.index), self.classes), np.float32)
        np.put_along_axis(dense, self.index.astype(np.int64), self.weight.astype(np.float32) / LEVELS, axis=1)
        return dense


def quantise(probabilities: NDArray[np.floating], top: int) -> PackedLabels:
    """Keep the likeliest classes of each sample and round their shares to 255ths.

    Shares are renormalised over the classes kept; what rounding down leaves over goes to the largest remainders
    (Hamilton's method), so that every row still sums to one.

    Args:
        probabilities: Of each class, (n, classes), rows summing to about one.
        top: Classes kept of each sample.

    Raises:
        OptionError: If ``top`` is no number of classes, or the probabilities are not.
    """
    probabilities = np.asarray(probabilities, np.float64)
    classes = probabilities.shape[1]
    if not 1 <= top <= classes:
        raise OptionError(f"soft_labels.top_k is {top}; keep between 1 and {classes} classes")
    if not np.isfinite(probabilities).all() or (probabilities < 0).any() or (probabilities.sum(1) <= 0).any():
        raise OptionError("soft labels must be probabilities: finite, not negative, not all zero")
    index = np.argsort(-probabilities, axis=1, kind="stable")[:, :top]
    kept = np.take_along_axis(probabilities, index, axis=1)
    exact = kept / kept.sum(axis=1, keepdims=True) * LEVELS
    weight = np.floor(exact)
    left = (LEVELS - weight.sum(axis=1)).astype(np.int64)
    order = np.argsort(-(exact - weight), axis=1, kind="stable")
    np.put_along_axis(weight, order, np.take_along_axis(weight, order, 1) + (np.arange(top) < left[:, None]), 1)
    smallest = np.uint8 if classes <= np.iinfo(np.uint8).max + 1 else np.uint16
    return PackedLabels(index.astype(smallest), weight.astype(np.uint8), classes)


def pack(dense: NDArray[np.float32]) -> PackedLabels | None:
    """Pack soft labels (n, classes) that :func:`quantise` rounded; None for any others, which packing would change."""
    whole = np.rint(np.asarray(dense, np.float64) * LEVELS)
    if not len(dense) or (whole < 0).any() or (whole.sum(axis=1) != LEVELS).any():
        return None
    packed = quantise(whole, int((whole > 0).sum(axis=1).max()))
    return packed if np.array_equal(packed.unpack(), dense) else None


def nbytes(dense: NDArray[np.float32]) -> int:
    """Bytes that soft labels (n, classes) take in a file."""
    packed = pack(dense)
    return int(dense.nbytes if packed is None else packed.nbytes)


_FORMAT = "rsdistill.distilled/1"


@dataclass(eq=False, repr=False)
class DistilledSet:
    """A small labelled set of images with its provenance.

    It never holds chip ids, file names or coordinates of the originals.

    Attributes:
        image: Images of shape (sample, band, y, x) in sensor units, of ``bands.dtype``.
        label: Class positions of shape (sample,), int64.
        classes: The classes that labels point to.
        bands: The bands of the images.
        gsd: Ground sampling distance in metres.
        manifest: What made the set: method, options, seed, versions, licence, digital source type.
        soft_label: Class probabilities of shape (sample, class), float32, or None.
        caption: One text a sample.
        score: The teacher's score of each sample, float32, NaN where there is none.
        verdict: The audit's verdict of each sample (``pass``, ``review``, ``block``), or None.

    Raises:
        ArtifactError: If the parts do not fit together.
        BandError: If the images and the band set differ in number of bands.
    """

    image: NDArray[Any]
    label: NDArray[np.int64]
    classes: tuple[ClassInfo, ...]
    bands: BandSet
    gsd: float
    manifest: dict[str, Any]
    soft_label: NDArray[np.float32] | None = None
    caption: Sequence[str] = ()
    score: NDArray[np.float32] = field(default_factory=lambda: np.empty(0, np.float32))
    verdict: Sequence[str] | None = None

    def __post_init__(self) -> None:
        """Bring parts to their types and check that they fit."""
        self.label = np.asarray(self.label, np.int64)
        count = len(self.label)
        self.caption = tuple(self.caption) or ("",) * count
        score = np.asarray(self.score, np.float32)
        self.score = score if score.size else np.full(count, np.nan, np.float32)
        if self.image.ndim != 4 or len(self.image) != count:
            raise ArtifactError(
                f"images of shape {self.image.shape} do not fit {count} labels; expected (sample, band, y, x)"
            )
        if self.image.shape[1] != len(self.bands):
            raise BandError(f"images have {self.image.shape[1]} bands, the band set {len(self.bands)}")
        self.image = np.ascontiguousarray(self.image, dtype=self.bands.dtype)
        if count and not (0 <= self.label.min() and self.label.max() < len(self.classes)):
            raise ArtifactError(f"labels must lie between 0 and {len(self.classes) - 1}")
        if self.soft_label is not None:
            self.soft_label = np.asarray(self.soft_label, np.float32)
            if self.soft_label.shape != (count, len(self.classes)):
                raise ArtifactError(
                    f"soft labels have shape {self.soft_label.shape}, expected {(count, len(self.classes))}"
                )
        for name, part in (("captions", self.caption), ("scores", self.score), ("verdicts", self.verdict)):
            if part is not None and len(part) != count:
                raise ArtifactError(f"{len(part)} {name} do not fit {count} samples")

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.label)

    def __eq__(self, other: object) -> bool:
        """Whether two sets hold the same images, labels, texts, scores and manifest."""
        return isinstance(other, DistilledSet) and self.seal() == other.seal()

    def __repr__(self) -> str:
        """Method, sizes, bands and whether the images are real."""
        kind = "generated" if self.is_synthetic else "real"
        return (
            f"DistilledSet({self.manifest.get('method', 'unknown method')}: {len(self)} {kind} images of "
            f"{len(self.classes)} classes, {'x'.join(map(str, self.image.shape[1:]))} {self.bands.dtype}, "
            f"bands {', '.join(self.bands.names)})"
        )

    __hash__ = None  # type: ignore[assignment]

    @property
    def slots(self) -> NDArray[np.int64]:
        """Running number of each sample within its class, shape (sample,)."""
        slots = np.zeros(len(self), np.int64)
        for label in np.unique(self.label):
            members = np.flatnonzero(self.label == label)
            slots[members] = np.arange(len(members))
        return slots

    @property
    def ipc(self) -> int:
        """Images per class: the largest number of samples that a class has."""
        return int(np.bincount(self.label).max()) if len(self) else 0

    @property
    def is_synthetic(self) -> bool:
        """Whether the images were generated; False where they are real chips."""
        return bool(self.manifest.get("digital_source_type", SYNTHETIC) != REAL)

    def content_digest(self) -> str:
        """sha256 over images, labels, texts and scores."""
        sha = hashlib.sha256()
        for array in (self.image, self.label, self.score, self.soft_label):
            if array is not None:
                sha.update(f"{array.dtype.str}{array.shape}".encode())
                sha.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
        sha.update(canonical_json([list(self.caption), list(self.verdict or [])]).encode())
        return sha.hexdigest()

    def seal(self) -> str:
        """sha256 over content and metadata: it changes when either is altered."""
        return digest([self.content_digest(), self._metadata()])

    def subset(self, keep: NDArray[Any]) -> DistilledSet:
        """The samples selected by positions or a boolean mask, with the same metadata."""
        positions = np.arange(len(self))[keep]
        return replace(
            self,
            image=self.image[positions],
            label=self.label[positions],
            soft_label=None if self.soft_label is None else self.soft_label[positions],
            caption=[self.caption[i] for i in positions],
            score=self.score[positions],
            verdict=None if self.verdict is None else [self.verdict[i] for i in positions],
        )

    def to_xarray(self) -> xr.Dataset:
        """The set as an xarray dataset, as it lies on disk."""
        import xarray as xr  # half a second that most importers need not pay

        variables: dict[str, Any] = {
            "image": (("sample", "band", "y", "x"), self.image),
            "label": ("sample", self.label),
            "caption": ("sample", np.asarray(self.caption, dtype=object)),
            "score": ("sample", self.score),
        }
        if self.soft_label is not None:
            packed = pack(self.soft_label)
            if packed is None:
                variables["soft_label"] = (("sample", "class"), self.soft_label)
            else:
                variables["soft_index"] = (("sample", "rank"), packed.index)
                variables["soft_weight"] = (("sample", "rank"), packed.weight)
        if self.verdict is not None:
            variables["verdict"] = ("sample", np.asarray(self.verdict, dtype=object))
        coords = {
            "band": np.asarray(self.bands.names, dtype=object),
            "class": np.asarray([c.key for c in self.classes], dtype=object),
        }
        attrs = {"format": _FORMAT, "metadata": canonical_json(self._metadata()), "seal": self.seal()}
        return xr.Dataset(variables, coords, attrs)

    @classmethod
    def from_xarray(cls, dataset: xr.Dataset, where: str = "dataset") -> DistilledSet:
        """Rebuild a set from :meth:`to_xarray`.

        Raises:
            ArtifactError: If it is not a distilled set, or was altered since it was saved.
        """
        if dataset.attrs.get("format") != _FORMAT:
            raise ArtifactError(f"{where} is not a distilled set of format {_FORMAT}; was it made by rsdistill?")
        metadata = json.loads(dataset.attrs["metadata"])
        result = cls(
            image=dataset["image"].values,
            label=dataset["label"].values,
            classes=tuple(ClassInfo(**c) for c in metadata["classes"]),
            bands=BandSet.from_dict(metadata["bands"]),
            gsd=metadata["gsd"],
            manifest=metadata["manifest"],
            soft_label=_soft_label(dataset, len(metadata["classes"])),
            caption=[str(c) for c in dataset["caption"].values],
            score=dataset["score"].values,
            verdict=[str(v) for v in dataset["verdict"].values] if "verdict" in dataset else None,
        )
        if result.seal() != dataset.attrs.get("seal"):
            raise ArtifactError(f"{where} was altered after it was made (its seal does not match); make it again")
        return result

    def save(self, path: str | Path, overwrite: bool = False) -> Path:
        """Write the set as netCDF (``.nc``) or zarr (``.zarr``), complete or not at all.

        Raises:
            ArtifactError: If the file exists and may not be replaced, or has another ending.
            StorageError: If the folder cannot be written.
        """
        path = Path(path)
        if path.suffix not in (".nc", ".zarr"):
            raise ArtifactError(f"{path}: a distilled set is saved as .nc or .zarr; change the ending")
        if path.exists() and not overwrite:
            raise ArtifactError(f"{path} exists; choose another name or pass overwrite=True")
        dataset = self.to_xarray()
        with complete_file(path) as partial:
            if path.suffix == ".nc":
                compressed = {"image": {"zlib": True, "complevel": 4}}
                dataset.to_netcdf(partial, engine="h5netcdf", encoding=compressed)
            else:
                dataset.to_zarr(partial, mode="w", consolidated=False)
        return path

    @classmethod
    def load(cls, path: str | Path) -> DistilledSet:
        """Read a set written by :meth:`save`.

        Raises:
            ArtifactError: If the file is missing, unreadable, of another kind, or altered.
        """
        import xarray as xr

        path = Path(path)
        if not path.exists():
            raise ArtifactError(f"{path} does not exist; name a .nc or .zarr made by rsdistill")
        try:
            if path.is_dir():
                opened = xr.open_zarr(path, consolidated=False)
            else:
                opened = xr.open_dataset(path, engine="h5netcdf")
            with opened as dataset:
                return cls.from_xarray(dataset.load(), str(path))
        except ArtifactError:
            raise
        except Exception as error:
            raise ArtifactError(f"{path} cannot be read as a distilled set ({error}); make it again") from error

    def as_torch_dataset(self) -> TensorDataset:
        """Pairs (image float32 (B, H, W) in sensor units, label int64), plus soft labels where there are any."""
        import torch  # export must not load torch
        from torch.utils.data import TensorDataset

        parts = [torch.from_numpy(self.image.astype(np.float32)), torch.from_numpy(self.label)]
        if self.soft_label is not None:
            parts.append(torch.from_numpy(self.soft_label))
        return TensorDataset(*parts)

    def plot(self, colour: str = "natural", columns: int | None = None) -> Figure:
        """Contact sheet: a row a class, a column a sample.

        Args:
            colour: ``"natural"`` or ``"false"`` (near infrared shown as red), bands by wavelength.
            columns: Samples shown of each class; None for all.

        Raises:
            OptionError: If the colour is unknown.
            BandError: If false colour is asked for and there is no near infrared.
            ArtifactError: If the set is empty.
        """
        from matplotlib.figure import Figure

        wavelengths = composite_wavelengths(colour, self.bands)
        if not len(self):
            raise ArtifactError("the set holds no samples to plot")
        pictures = to_rgb(self.image, self.bands, wavelengths, stretch_limits(self.image, self.bands, wavelengths))
        labels = np.unique(self.label)
        width = max(1, min(columns or self.ipc, self.ipc))
        figure = Figure(figsize=(1.1 * width + 1.6, 1.1 * len(labels)), layout="compressed")
        grid = figure.subplots(len(labels), width, squeeze=False)
        for row, label in zip(grid, labels, strict=True):
            members = np.flatnonzero(self.label == label)
            for position, axis in enumerate(row):
                axis.set_axis_off()
                if position < len(members):
                    axis.imshow(pictures[members[position]], interpolation="nearest")
            row[0].text(
                -0.08, 0.5, self.classes[label].name, ha="right", va="center", transform=row[0].transAxes, fontsize=9
            )
        return figure

    def _metadata(self) -> dict[str, Any]:
        return {
            "classes": [{"key": c.key, "name": c.name, "sector": c.sector} for c in self.classes],
            "bands": self.bands.to_dict(),
            "gsd": self.gsd,
            "manifest": self.manifest,
        }


def _soft_label(dataset: xr.Dataset, classes: int) -> NDArray[np.float32] | None:
    if "soft_index" in dataset:
        return PackedLabels(dataset["soft_index"].values, dataset["soft_weight"].values, classes).unpack()
    return dataset["soft_label"].values if "soft_label" in dataset else None
