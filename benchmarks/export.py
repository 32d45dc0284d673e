"""How fast tiles are exported, beside a bare rasterio write, and how much memory a large export needs.

    python benchmarks/export.py                 tiles a second: bare COG write, 1 worker, 2 workers
    python benchmarks/export.py --large 20000   peak memory of a large export, in a process of its own

Bare write: rasterio's COG driver with the same compression and blocks, pixels and CRS only.
The two are timed in turns, so that a busy machine slows both alike; the median of the turns is printed.
Export includes everything up to the finished folder: index, mosaics, catalog, project, manifest.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import rasterio

from rsdistill.bands import get_bands
from rsdistill.classes import ClassInfo
from rsdistill.distilled import DistilledSet
from rsdistill.export import export_tiles


def make_set(count: int, size: int) -> DistilledSet:
    """Scene-like tiles: smooth ground with texture, as compressible as real imagery."""
    generator = np.random.default_rng(0)
    bands = get_bands("bgrn")
    y, x = np.mgrid[:size, :size] / size
    ground = 2000 + 1500 * np.sin(7 * x) * np.cos(5 * y)
    image = np.empty((count, len(bands), size, size), np.uint16)
    for n in range(count):
        texture = generator.normal(0, 60, (len(bands), size, size))
        image[n] = np.clip(ground * generator.uniform(0.5, 1.5, (len(bands), 1, 1)) + texture, 1, 10000)
    classes = tuple(ClassInfo(f"class{n:02}", f"class {n}") for n in range(20))
    manifest = {"method": "benchmark", "seed": 0, "dataset": {"name": "generated", "licence": "CC0-1.0"}}
    return DistilledSet(image, np.arange(count) % len(classes), classes, bands, 10.0, manifest)


def write_bare(tiles: DistilledSet, folder: Path) -> float:
    """Seconds to write all tiles by rasterio alone."""
    crs = rasterio.crs.CRS.from_epsg(32632)
    start = time.perf_counter()
    for number, pixels in enumerate(tiles.image):
        count, height, width = pixels.shape
        transform = rasterio.Affine(10, 0, 500_000 + 3000 * number, 0, -10, 5_000_000)
        with rasterio.open(
            folder / f"{number}.tif", "w", driver="COG", compress="DEFLATE", predictor="YES", blocksize=256,
            count=count, height=height, width=width, dtype=pixels.dtype, crs=crs, transform=transform, nodata=0,
        ) as target:  # fmt: skip
            target.write(pixels)
    return time.perf_counter() - start


def write_export(tiles: DistilledSet, folder: Path, workers: int) -> float:
    """Seconds to export all tiles."""
    start = time.perf_counter()
    export_tiles(tiles, folder / "out", workers=workers, progress=False)
    return time.perf_counter() - start


def compare(count: int, size: int, turns: int) -> dict[str, float]:
    """Tiles a second of each way, and the rate of one worker as a share of the bare write's."""
    tiles = make_set(count, size)
    ways: dict[str, Callable[[Path], float]] = {
        "bare": lambda folder: write_bare(tiles, folder),
        "1 worker": lambda folder: write_export(tiles, folder, 1),
        "2 workers": lambda folder: write_export(tiles, folder, 2),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    processor: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(turns + 1):
        for name, way in ways.items():
            with tempfile.TemporaryDirectory() as folder:
                begun = time.process_time()
                took = way(Path(folder))
                # The first turn pays for imports and for starting the workers.
                if turn:
                    seconds[name].append(took)
                    processor[name].append(time.process_time() - begun)
    rates = {f"{name}, tiles a second": count / statistics.median(took) for name, took in seconds.items()}
    shares = {
        "1 worker, share of the bare rate": _share(seconds),
        "1 worker, share by processor time (where others use the machine)": _share(processor),
    }
    return {**rates, **shares}


def _share(took: dict[str, list[float]]) -> float:
    return statistics.median(bare / one for bare, one in zip(took["bare"], took["1 worker"], strict=True))


def large(count: int, size: int) -> dict[str, float]:
    """Peak memory of a large export, of this process and of its largest worker, in MB."""
    tiles = make_set(count, size)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    with tempfile.TemporaryDirectory() as folder:
        took = write_export(tiles, Path(folder), 1)
    return {
        "tiles": count,
        "pixels": size,
        "set MB": tiles.image.nbytes / 2**20,
        "peak before MB": before,
        "peak MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "tiles a second": count / took,
    }


def main() -> None:
    """Run and print as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=200, help="tiles of each turn")
    parser.add_argument("--size", type=int, default=256, help="side of a tile in pixels")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--large", type=int, metavar="TILES", help="measure memory with so many tiles of 32 pixels")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.large and not options.inside:
        command = [sys.executable, __file__, "--large", str(options.large), "--inside"]
        print(subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip())
        return
    found = large(options.large, 32) if options.large else compare(options.count, options.size, options.turns)
    print(json.dumps({name: round(value, 3) for name, value in found.items()}, indent=2))


if __name__ == "__main__":
    main()
