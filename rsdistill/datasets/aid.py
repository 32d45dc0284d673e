"""AID dataset, in the manner of torchgeo."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray
from torch import Tensor
from torchgeo.datasets import DatasetNotFoundError, NonGeoClassificationDataset
from torchgeo.datasets.utils import download_url, extract_archive

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class AID(NonGeoClassificationDataset):  # type: ignore[misc,unused-ignore]
    """AID dataset.

    The `AID <https://captain-whu.github.io/AID/>`__ dataset (Aerial Image Dataset) is a dataset for
    aerial scene classification.

    Dataset features:

    * 10,000 images with 0.5 to 8 m per pixel resolution (600x600 px)
    * three spectral bands: RGB
    * 30 scene classes, 220 to 420 images per class
    * images from Google Earth, from different countries, seasons and imaging conditions

    Dataset format:

    * images are three-channel jpgs

    Dataset classes:

    0. Airport
    1. BareLand
    2. BaseballField
    3. Beach
    4. Bridge
    5. Center
    6. Church
    7. Commercial
    8. DenseResidential
    9. Desert
    10. Farmland
    11. Forest
    12. Industrial
    13. Meadow
    14. MediumResidential
    15. Mountain
    16. Park
    17. Parking
    18. Playground
    19. Pond
    20. Port
    21. RailwayStation
    22. Resort
    23. River
    24. School
    25. SparseResidential
    26. Square
    27. Stadium
    28. StorageTanks
    29. Viaduct

    The dataset has no official split.

    If you use this dataset in your research, please cite the following paper:

    * https://doi.org/10.1109/TGRS.2017.2685945
    """

    url = "https://hf.co/datasets/isaaccorley/aid/resolve/e6767964e40f567a18eac6e6ca5fce397e4ce411/AID.zip"
    sha256 = "79345ef1766e85f7b92cf556c809c4f32ff24228ae71aadf96780f74f48c26a4"
    filename = "AID.zip"
    directory = "AID"

    def __init__(
        self,
        root: str | Path = "data",
        transforms: Callable[[dict[str, Tensor]], dict[str, Tensor]] | None = None,
        download: bool = False,
        checksum: bool = True,
    ) -> None:
        """Initialize a new AID dataset instance.

        Args:
            root: root directory where dataset can be found
            transforms: a function/transform that takes an input sample and returns a transformed version
            download: if True, download dataset and store it in the root directory
            checksum: if True, verify the checksum of the archive before it is extracted (may be slow)

        Raises:
            DatasetNotFoundError: If dataset is not found and *download* is False.
            RuntimeError: If the archive is corrupted.
        """
        self.root, self.download, self.checksum = root, download, checksum
        self._verify()
        super().__init__(root=os.path.join(root, self.directory), transforms=transforms)

    def _verify(self) -> None:
        """Extract or download what is missing."""
        if os.path.isdir(os.path.join(self.root, self.directory)):
            return
        archive = os.path.join(self.root, self.filename)
        if not os.path.isfile(archive):
            if not self.download:
                raise DatasetNotFoundError(self)
            download_url(self.url, self.root, filename=self.filename)
        # torchgeo 0.8 compares md5 sums alone, so sha256 is compared here.
        if self.checksum:
            with open(archive, "rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
            if found != self.sha256:
                raise RuntimeError(f"{archive} is corrupted: its sha256 is {found}, not {self.sha256}.")
        extract_archive(archive)

    def plot(self, sample: dict[str, Any], show_titles: bool = True, suptitle: str | None = None) -> Figure:
        """Plot a sample from the dataset; see :func:`plot_sample`."""
        picture = sample["image"].permute(1, 2, 0).numpy() / 255
        return plot_sample(picture, sample, self.classes, show_titles, suptitle)


def plot_sample(
    picture: NDArray[Any], sample: dict[str, Any], classes: Sequence[str], show_titles: bool, suptitle: str | None
) -> Figure:
    """A figure of one sample, in torchgeo's manner.

    Args:
        picture: What to show, (H, W, 3), float in 0..1 or uint8.
        sample: What the dataset's ``__getitem__`` gave, of which label and prediction, if any, are shown.
        classes: Names that labels point into.
        show_titles: Whether to show the class above the image.
        suptitle: Title of the figure.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4, 4))
    axes = figure.subplots()
    axes.imshow(picture, interpolation="nearest")
    axes.set_axis_off()
    if show_titles:
        title = f"Label: {classes[int(sample['label'])]}"
        if "prediction" in sample:
            title += f"\nPrediction: {classes[int(sample['prediction'])]}"
        axes.set_title(title)
    if suptitle is not None:
        figure.suptitle(suptitle)
    return figure
