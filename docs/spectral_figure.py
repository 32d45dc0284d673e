"""Draw the figure of docs/spectral.md: NDVI of rendered scenes, no original image in it."""

from pathlib import Path

from rsdistill.datasets import load_dataset
from rsdistill.distillers import create_distiller
from rsdistill.report import index_histograms

data = load_dataset("synthetic", bands="sentinel2", size=32, chips_per_class=40)
tiles = create_distiller("random").fit(data).distill(2)
index_histograms(data, tiles).savefig(Path(__file__).with_name("images") / "ndvi.png", metadata={"Software": None})
