"""Small sets with known content for the tests of the export room."""

import numpy as np

from rsdistill.bands import Band, BandSet, get_bands
from rsdistill.classes import ClassInfo
from rsdistill.distilled import DistilledSet
from rsdistill.utils.provenance import SYNTHETIC

CLASSES = (ClassInfo("river", "river", "water"), ClassInfo("Dünen/Wald", "dunes & forest"))


def make_bands(count, dtype):
    """A band set of any length: the four of ``bgrn`` first, then bands in the short-wave infrared."""
    known = get_bands("bgrn").bands
    more = tuple(Band(f"X{n}", 1.0 + 0.005 * n, 0.01) for n in range(max(0, count - len(known))))
    ranges = {"uint8": (0.0, 255.0), "uint16": (1.0, 10000.0), "int16": (-2000.0, 10000.0), "float32": (0.0, 1.0)}
    nodata = {"uint16": 0.0, "int16": -9999.0}.get(dtype)
    scale = {"uint16": 1e-4, "int16": 1e-4}.get(dtype, 1.0)
    return BandSet((known + more)[:count], "test", dtype, ranges[dtype], scale, 0.0, nodata)


def make_set(count=4, *, bands=4, dtype="uint16", size=(32, 32), seed=0, classes=CLASSES, **manifest):
    """A set of random images whose labels go round the classes."""
    band_set = make_bands(bands, dtype)
    low, high = band_set.valid_range
    values = np.random.default_rng(seed).uniform(low, high, (count, bands, *size))
    return DistilledSet(
        image=values.astype(dtype),
        label=np.arange(count) % len(classes),
        classes=classes,
        bands=band_set,
        gsd=10.0,
        manifest={
            "method": "dpd",
            "seed": 7,
            "ipc": -(-count // len(classes)),
            "dataset": {"name": "SyntheticScenes", "licence": "CC0-1.0", "citation": "Nobody (2026), Scenes."},
            "digital_source_type": SYNTHETIC,
            "options": {"steps": 3},
            **manifest,
        },
        caption=[f"an image of {classes[n % len(classes)].name}" for n in range(count)],
        score=np.linspace(0, 1, count, dtype=np.float32),
    )
