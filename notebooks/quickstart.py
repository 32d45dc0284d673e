# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Quickstart: distil a scene dataset
#
# A few generated images per class, to train a classifier on in place of the original chips.
# Everything here is rendered, trained and judged on this machine, without a download.
#
# Sizes and steps are tiny so that the notebook runs in a minute or two on two cores. The figures are
# therefore far from what the method can do: `configs/quickstart.yaml` runs the same job longer.

# %%
# %matplotlib inline
from pathlib import Path
from tempfile import mkdtemp

import rsdistill
from rsdistill.report import accuracy_against_leakage, class_spectra, contact_sheet

folder = Path(mkdtemp(prefix="rsdistill-"))

# %% [markdown]
# ## A dataset
#
# `load_dataset` opens a dataset by name and cuts it into train, validation and test. `"synthetic"` renders
# labelled chips in blue, green, red and near infrared, here of six of its classes; `rsdistill.list_datasets()`
# names the other datasets.

# %%
classes = ["forest", "river", "beach", "residential", "runway", "storage_tanks"]
data = rsdistill.load_dataset("synthetic", size=32, chips_per_class=40, classes=classes)
print(f"{len(data.train)} train, {len(data.val)} validation and {len(data.test)} test chips")
print("bands:", ", ".join(data.bands.names))

# %% [markdown]
# ## A codec and its latents
#
# The codec turns chips into latents, four times smaller along each side, and back. All later learning
# happens there.

# %%
codec = rsdistill.create_codec("kl", bands=data.bands, block_channels=(16, 32, 64), steps=80).fit(data)
latents = rsdistill.encode(codec, data, folder / "latents.zarr", views=2)

# %% [markdown]
# ## Distil
#
# `dpd` finds prototypes of each class, lets them guide a small diffusion model, and keeps of several
# candidates the one that a teacher tells apart best. `ipc` is the number of images per class.

# %%
distiller = rsdistill.create_distiller(
    "dpd",
    teacher={"width": 32, "blocks": 2, "steps": 60},
    training={"steps": 80, "batch": 32},
    sampling={"steps": 10},
    candidates=2,
)
tiles = distiller.fit(data, latents).distill(ipc=3, seed=0)
tiles.plot()

# %% [markdown]
# Beside original chips, under one stretch; `colour="false"` shows the near infrared as red.

# %%
contact_sheet(data, tiles, columns=3)

# %%
contact_sheet(data, tiles, classes=["river", "residential"], columns=3, colour="false")

# %% [markdown]
# ## Are the spectra right?

# %%
class_spectra(data, tiles)

# %% [markdown]
# ## Accuracy, and what it may have cost
#
# Students are trained on the set, on random real chips of the same number and on all real chips, and scored
# on test chips. Beside each accuracy stands how often an image's nearest real neighbour is a training chip:
# 50 % is what no leak would give. Audits can show leakage; they cannot prove that there is none.

# %%
random = rsdistill.create_distiller("random").fit(data).distill(ipc=3, seed=0)
report = rsdistill.evaluate(
    {"dpd": [tiles], "random": [random]},
    data,
    recipe={"steps": 40, "batch": 32},
    seeds=(0, 1),
    folder=folder / "evaluation",
)
print(report.table())

# %%
accuracy_against_leakage(report)

# %% [markdown]
# ## Keep it, and hand it on
#
# `save` writes one netCDF file, sealed against alteration. `export_tiles` writes georeferenced tiles with an
# index, for those who work in a GIS.

# %%
tiles.save(folder / "tiles.nc")
exported = rsdistill.export_tiles(tiles, folder / "tiles")
sorted(path.relative_to(exported).as_posix() for path in exported.iterdir())
