"""Draw the figure of docs/captions.md: tiles of a model of benchmarks/captions.py, each column from the same noise.

python docs/captions_figure.py runs/captions_synthetic/captions-KEY/model runs/captions_synthetic/scenes/KEY/codec
"""

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from rsdistill.bands import NATURAL_COLOUR
from rsdistill.codecs import load_codec
from rsdistill.diffusion.model import DiffusionModel
from rsdistill.diffusion.sampling import SamplingOptions, sample
from rsdistill.imaging.composites import stretch_limits, to_rgb
from rsdistill.imaging.normalisation import to_sensor

ROWS = (
    "river, narrow, winter",
    "river, narrow, summer",
    "river, wide, summer",
    "residential, sparse roofs, spring",
    "residential, dense roofs, spring",
    "cropland, bare fields, summer",
    "cropland, green fields, summer",
    "cropland, ripe fields, summer",
    "forest, summer",
    "forest, winter",
)
COLUMNS = 6

model, codec = DiffusionModel.load(sys.argv[1]), load_codec(sys.argv[2])
prompts = [f"A satellite image of {row}" for row in ROWS for _ in range(COLUMNS)]
sampling = SamplingOptions(steps=15, guidance_scale=2.0, scheduler="dpmsolver++")
drawn = sample(model, prompts, list(range(COLUMNS)) * len(ROWS), None, sampling, progress=False)
tiles = to_sensor(codec.decode(drawn), codec.bands)
shown = to_rgb(tiles, codec.bands, NATURAL_COLOUR, stretch_limits(tiles, codec.bands, NATURAL_COLOUR))
figure, axes = plt.subplots(len(ROWS), 1, figsize=(5.0, 6.2), layout="constrained")
for axis, row, pictures in zip(axes, ROWS, np.split(shown, len(ROWS)), strict=True):
    # A white pixel between two tiles.
    strip = np.pad(pictures, ((0, 0), (0, 0), (0, 1), (0, 0)), constant_values=255)
    axis.imshow(np.concatenate(strip, axis=1), interpolation="nearest")
    axis.set(xticks=[], yticks=[], frame_on=False)
    axis.set_ylabel(row.replace(", ", ",\n", 1), rotation=0, ha="right", va="center", fontsize=7)
path = Path(__file__).with_name("images") / "captions.png"
figure.savefig(path, dpi=100, bbox_inches="tight", metadata={"Software": None})
