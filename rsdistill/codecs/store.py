"""The latent store: an xarray dataset in zarr, written in batches and read lazily."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
import zarr
from numpy.typing import NDArray
from tqdm.auto import tqdm

from rsdistill.codecs.base import Codec
from rsdistill.datasets.base import SceneData, SceneView
from rsdistill.errors import ArtifactError, OptionError
from rsdistill.imaging.pixels import dihedral
from rsdistill.utils.io import complete_folder

if TYPE_CHECKING:
    import xarray as xr

_CHUNK = 64
# Bytes of latents beyond which a reader streams from disk.
MAX_IN_MEMORY = 2 * 1024**3
_SPLITS = ("train", "val")
VIEWS = 8


class LatentBatch(NamedTuple):
    """Latents of some samples.

    Attributes:
        mean: Posterior means, (n, C, h, w).
        logvar: Posterior log-variances, (n, C, h, w).
        label: Class positions, int64 (n,).
        chip: Positions of the chips in their view of the dataset, int64 (n,): what captions go by.
    """

    mean: torch.Tensor
    logvar: torch.Tensor
    label: torch.Tensor
    chip: torch.Tensor


class LatentStore:
    """Latents of the train and validation chips of a dataset, with the codec that made them.

    The test chips are never encoded: nothing before evaluation may see them. A train chip may
    stand several times, once for each of its dihedral views, since a codec does not commute with
    turns and flips.

    Args:
        path: Folder of the zarr store.
        codec: The codec whose latents these are.

    Raises:
        ArtifactError: If there is no store at the path.
    """

    def __init__(self, path: str | Path, codec: Codec) -> None:
        self.path, self.codec = Path(path), codec
        try:
            self._group = zarr.open_group(self.path, mode="r")
            self.label: NDArray[np.int64] = np.asarray(self._array("label")[:])
            self.split: NDArray[np.int8] = np.asarray(self._array("split")[:])
            self.view: NDArray[np.int8] = np.asarray(self._array("view")[:])
            self.chip = _places(np.asarray(self._array("chip")[:]), self.split)
        except (FileNotFoundError, KeyError, ValueError) as error:
            raise ArtifactError(f"{self.path} holds no latent store ({error}); encode the dataset first") from error

    def __repr__(self) -> str:
        """Sizes and place."""
        shape = "x".join(map(str, self._array("mean").shape))
        return f"LatentStore({shape} latents in {self.path})"

    def open(self) -> xr.Dataset:
        """The whole store as a lazy xarray dataset (dims sample, channel, y, x)."""
        import xarray as xr

        store: xr.Dataset = xr.open_zarr(self.path, consolidated=False)
        return store

    def positions(self, split: str, views: bool = False) -> NDArray[np.int64]:
        """Samples of a split: one a chip, or every dihedral view of each.

        Raises:
            OptionError: If the split is neither train nor val.
        """
        if split not in _SPLITS:
            raise OptionError(f"split '{split}' is not in the latent store; choose train or val")
        chosen = self.split == _SPLITS.index(split)
        return np.flatnonzero(chosen if views else chosen & (self.view == 0))

    def read(self, positions: NDArray[np.int64]) -> LatentBatch:
        """The samples at these positions, in their order."""
        ordered, back = np.unique(positions, return_inverse=True)
        mean, logvar = (torch.from_numpy(self._array(name).oindex[ordered])[back] for name in ("mean", "logvar"))
        label, chip = (torch.from_numpy(values[positions]) for values in (self.label, self.chip))
        return LatentBatch(mean, logvar, label, chip)

    def reader(self, positions: NDArray[np.int64]) -> Any:
        """A function from positions among these samples to a :class:`LatentBatch`.

        Small stores are read once into memory; larger ones stream from disk at each call.
        """
        size = 2 * 4 * int(np.prod(self._array("mean").shape[1:])) * len(positions)
        if size > MAX_IN_MEMORY:
            return lambda which: self.read(positions[which.numpy()])
        held = self.read(positions)
        return lambda which: LatentBatch(*(values[which] for values in held))

    def _array(self, name: str) -> Any:
        return self._group[name]


def encode(
    codec: Codec,
    data: SceneData,
    path: str | Path,
    views: int = VIEWS,
    batch: int = 64,
    overwrite: bool = False,
    progress: bool = True,
) -> LatentStore:
    """Encode the train and validation chips of a dataset into a latent store.

    Args:
        codec: A fitted codec.
        data: The dataset.
        path: Folder of the store.
        views: How many of the 8 dihedral views of each train chip to keep: 1, 2, 4 or 8.
        batch: Chips encoded at a time.
        overwrite: Replace a store that is there.
        progress: Whether to show a progress bar.

    Returns:
        The store.

    Raises:
        OptionError: If ``views`` is not 1, 2, 4 or 8.
        BandError: If the codec is for other bands.
        StorageError: If the store exists or cannot be written.
    """
    if views not in (1, 2, 4, VIEWS):
        raise OptionError(f"encode.views {views} is not possible; choose 1, 2, 4 or 8")
    plan = [(0, data.train, view) for view in range(views)] + [(1, data.val, 0)]
    total = sum(len(part) for _, part, _ in plan)
    with complete_folder(path, overwrite) as partial:
        writer: _Writer | None = None
        with tqdm(total=total, desc="encode", unit="chip", leave=False, disable=not progress) as bar:
            for split, part, view in plan:
                for labels, images, chips in _batches(part, batch):
                    posterior = codec.posterior(dihedral(torch.from_numpy(images), view))
                    mean, logvar = (values.cpu().numpy() for values in posterior)
                    writer = writer or _Writer(partial, total, mean.shape[1:])
                    writer.add(mean=mean, logvar=logvar, label=labels, chip=chips, split=split, view=view)
                    bar.update(len(labels))
    return LatentStore(path, codec)


def _places(chips: NDArray[np.int64], split: NDArray[np.int8]) -> NDArray[np.int64]:
    """Place of each sample's chip in its view, int64 (n,): samples stand in the order of the view, lap by lap."""
    places = np.empty_like(chips)
    for part in np.unique(split):
        these = np.flatnonzero(split == part)
        _, first, which = np.unique(chips[these], return_index=True, return_inverse=True)
        places[these] = np.argsort(np.argsort(first))[which]
    return places


def _batches(view: SceneView, size: int) -> Iterator[tuple[NDArray[np.int64], NDArray[Any], NDArray[np.int64]]]:
    for start in range(0, len(view), size):
        which = np.arange(start, min(start + size, len(view)))
        yield view.labels[which], view.images(which), view.indices[which]


class _Writer:
    """Appends batches to the arrays of a new store."""

    def __init__(self, path: Path, total: int, shape: Sequence[int]) -> None:
        group = zarr.create_group(path, overwrite=True)
        space = ("sample", "channel", "y", "x")
        self._arrays = {
            name: group.create_array(
                name, shape=(total, *shape), chunks=(_CHUNK, *shape), dtype="float32", dimension_names=space
            )
            for name in ("mean", "logvar")
        }
        for name, kind in (("label", "int64"), ("chip", "int64"), ("split", "int8"), ("view", "int8")):
            self._arrays[name] = group.create_array(
                name, shape=(total,), chunks=(total,), dtype=kind, dimension_names=("sample",)
            )
        self._next = 0

    def add(self, **parts: Any) -> None:
        """Append the parts of a batch, each by the name of its array; a number stands for all its samples."""
        end = self._next + len(parts["label"])
        for name, values in parts.items():
            self._arrays[name][self._next : end] = values
        self._next = end
