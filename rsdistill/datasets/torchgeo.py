"""UC Merced, NWPU-RESISC45, EuroSAT and AID: layout, archives, downloads and official lists by torchgeo's classes.

Pixels are read here rather than through a torchgeo sample, to keep the sensor's own type, to
name the file at fault, and to do without split lists, which a plain copy of the images lacks.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from rsdistill.bands import BandSet, get_bands
from rsdistill.classes import ClassInfo
from rsdistill.datasets.base import DATASETS, PublishedSplit
from rsdistill.datasets.folder import FileScenes, SourceFacts, check_options, chosen_bands, class_folders, require_root
from rsdistill.datasets.reading import read_photo, read_raster
from rsdistill.errors import DatasetError, SplitError, storage_errors
from rsdistill.sensitive.taxonomy import load_taxonomy

# What torchgeo, its downloads and its archives fail with.
_FAILURES = (OSError, RuntimeError, ValueError, AssertionError, zipfile.BadZipFile)


class TorchGeoScenes(FileScenes):
    """Chips of a dataset that torchgeo knows, with or without its split lists.

    Args:
        root: The folder that torchgeo calls root: the images' folder or archive lies in it.
        size: Pixels on a side to resample to; None for the dataset's own.
        bands: Names of the bands to take, in the order wanted; None for all.
        classes: Keys of the classes to take; None for all.
        download: Fetch what is missing, images and split lists.
        max_bad: Most unusable chips to go on without; None for one in a hundred, at most 20.

    Raises:
        DatasetError: If the images are missing, or too many are unusable.
        UnknownNameError: If a band or class is unknown.
    """

    torchgeo_name: ClassVar[str]
    facts: ClassVar[SourceFacts]
    sensor: ClassVar[str] = "rgb"
    # As torchgeo does: colour images through Pillow, even where they are TIFFs; other rasters through GDAL.
    reader = staticmethod(read_photo)

    def __init__(
        self,
        root: str | Path | None = None,
        size: int | None = None,
        bands: str | Sequence[str] | None = None,
        classes: Sequence[str] | None = None,
        download: bool = False,
        max_bad: int | None = None,
    ) -> None:
        check_options(size, max_bad)
        wanted = chosen_bands(get_bands(self.sensor), bands)
        folder = self._located(root, download)
        self._root, self._download = Path(root or "").expanduser(), download
        super().__init__(
            folder,
            self.facts,
            self._stored_bands(),
            wanted,
            partial(load_taxonomy().class_info, self.facts.name),
            size,
            classes,
            max_bad,
        )

    @classmethod
    def known_classes(cls, options: Mapping[str, Any]) -> tuple[ClassInfo, ...]:
        """The class folders there are; see :meth:`SceneSource.known_classes`."""
        folder = cls._located(options.get("root"), bool(options.get("download")))
        return tuple(load_taxonomy().class_info(cls.facts.name, key) for key in class_folders(folder))

    @classmethod
    def torchgeo_class(cls) -> Any:
        """The dataset's class, imported when needed: torchgeo takes seconds to import."""
        return resolve_name(cls.torchgeo_name)

    @classmethod
    def _layout(cls) -> str:
        """Folder of the class folders, relative to root."""
        dataset = cls.torchgeo_class()
        return str(getattr(dataset, "base_dir", None) or dataset.directory)

    def _stored_bands(self) -> BandSet:
        """Bands of the files, in their order."""
        return get_bands(self.sensor)

    @classmethod
    def _located(cls, given: str | Path | None, download: bool) -> Path:
        """The folder of class folders, extracted or downloaded if need be."""
        root = require_root(cls.facts.name, given, f"'{cls._layout()}'")
        dataset, folder = cls.torchgeo_class(), root / cls._layout()
        if folder.is_dir():
            return folder
        archive = root / dataset.filename
        if not archive.is_file() and not download:
            raise DatasetError(
                f"dataset '{cls.facts.name}' is not in {root}: it needs '{cls._layout()}' or the archive "
                f"'{dataset.filename}' there; correct root, or use download=True (data.options.download in a config)"
            )
        try:
            with storage_errors(root):
                _unpack(dataset, root, archive)
        except _FAILURES as error:
            raise DatasetError(f"dataset '{cls.facts.name}' cannot be put into {root}: {error}") from error
        if not folder.is_dir():
            raise DatasetError(f"archive {archive} does not hold '{cls._layout()}'; replace it by the original")
        return folder

    def official_split(self) -> dict[str, NDArray[np.int64]]:
        """Positions of the chips in torchgeo's lists.

        Raises:
            SplitError: If the dataset has no lists, or one is missing or does not fit the images.
        """
        dataset = self.torchgeo_class()
        if not hasattr(dataset, "splits"):
            return super().official_split()
        positions = {chip_id: position for position, chip_id in enumerate(self.chip_ids)}
        parts = {}
        for part in dataset.splits:
            self._require_list(dataset, part)
            try:
                files = [Path(path) for path, _ in dataset(root=str(self._root), split=part).imgs]
            except _FAILURES as error:
                raise SplitError(
                    f"the official {part} list of {self.name} does not fit the images in {self._root} ({error}); "
                    "complete them, or use scheme 'stratified'"
                ) from error
            ids = [f"{path.parent.name}/{path.name}" for path in files]
            parts[part] = np.array([positions[i] for i in ids if i in positions], np.int64)
        return parts

    def _require_list(self, dataset: Any, part: str) -> None:
        """Make sure that a split list is there; torchgeo fetches it only together with the images."""
        if hasattr(dataset, "split_urls"):
            url = str(dataset.split_urls[part])
        else:
            url = f"{dataset.url}{dataset.split_filenames[part]}"
        path = self._root / url.rsplit("/", 1)[-1]
        if path.is_file():
            return
        if not self._download:
            raise SplitError(
                f"the official {part} list of {self.name} is missing: {path}; use scheme 'stratified', which needs "
                "no list, or download=True (data.options.download in a config)"
            )
        from torchgeo.datasets.utils import download_url

        try:
            with storage_errors(path):
                download_url(url, str(self._root), filename=path.name)
        except _FAILURES as error:
            raise SplitError(f"the official {part} list of {self.name} cannot be downloaded: {error}") from error


def _unpack(dataset: Any, root: Path, archive: Path) -> None:
    """Extract the archive, after fetching it if it is not there."""
    if archive.is_file():
        from torchgeo.datasets.utils import extract_archive

        extract_archive(str(archive), str(root))
    else:
        root.mkdir(parents=True, exist_ok=True)
        dataset(root=str(root), download=True, checksum=True)


@DATASETS.register(
    "ucmerced", summary="21 classes of land use, aerial RGB, 0.3 m", source="https://doi.org/10.1145/1869790.1869829"
)
class UCMercedScenes(TorchGeoScenes):
    """UC Merced Land Use (Yang and Newsam 2010)."""

    torchgeo_name = "torchgeo.datasets:UCMerced"
    facts = SourceFacts(
        "ucmerced",
        gsd=0.3,
        side=256,
        licence="public domain (USGS National Map imagery)",
        citation="Yang, Y. and Newsam, S. (2010). Bag-of-visual-words and spatial extensions for land-use "
        "classification. ACM SIGSPATIAL GIS. doi:10.1145/1869790.1869829",
    )
    published_split = PublishedSplit(0.5)


@DATASETS.register(
    "resisc45", summary="45 scene classes, RGB, 0.2 to 30 m", source="https://doi.org/10.1109/JPROC.2017.2675998"
)
class RESISC45Scenes(TorchGeoScenes):
    """NWPU-RESISC45 (Cheng, Han and Lu 2017). Its GSD of 0.2 to 30 m is given as the geometric mean."""

    torchgeo_name = "torchgeo.datasets:RESISC45"
    facts = SourceFacts(
        "resisc45",
        gsd=2.4,
        side=256,
        licence="non-commercial research use (Google Earth imagery)",
        citation="Cheng, G., Han, J. and Lu, X. (2017). Remote sensing image scene classification: benchmark and "
        "state of the art. Proceedings of the IEEE. doi:10.1109/JPROC.2017.2675998",
    )
    published_split = PublishedSplit(600, 100)


@DATASETS.register(
    "eurosat",
    summary="10 land covers, Sentinel-2, 13 bands, 10 m",
    source="https://doi.org/10.1109/JSTARS.2019.2918242",
)
class EuroSATScenes(TorchGeoScenes):
    """EuroSAT (Helber et al. 2019), in order of wavelength: its files hold B8A last."""

    torchgeo_name = "torchgeo.datasets:EuroSAT"
    facts = SourceFacts(
        "eurosat",
        gsd=10.0,
        side=64,
        licence="MIT; contains modified Copernicus Sentinel data",
        citation="Helber, P., Bischke, B., Dengel, A. and Borth, D. (2019). EuroSAT: a novel dataset and deep "
        "learning benchmark for land use and land cover classification. IEEE JSTARS. doi:10.1109/JSTARS.2019.2918242",
    )
    sensor = "sentinel2"
    reader = staticmethod(read_raster)

    def _stored_bands(self) -> BandSet:
        """The order of the files, as torchgeo knows it."""
        return get_bands(self.sensor, self.torchgeo_class().all_band_names)


@DATASETS.register(
    "aid", summary="30 scene classes, aerial RGB, 0.5 to 8 m", source="https://doi.org/10.1109/TGRS.2017.2685945"
)
class AIDScenes(TorchGeoScenes):
    """AID (Xia et al. 2017). Its GSD of 0.5 to 8 m is given as the geometric mean, at 600 pixels a side."""

    torchgeo_name = "rsdistill.datasets.aid:AID"
    facts = SourceFacts(
        "aid",
        gsd=2.0,
        side=600,
        licence="research use, unspecified (Google Earth imagery)",
        citation="Xia, G.-S. et al. (2017). AID: a benchmark data set for performance evaluation of aerial scene "
        "classification. IEEE TGRS. doi:10.1109/TGRS.2017.2685945",
    )
    published_split = PublishedSplit(0.5)
