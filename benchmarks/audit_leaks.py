"""Planted leaks: how many does the audit catch, and how many honest images does it flag?

    python benchmarks/audit_leaks.py --data ucmerced --root FOLDER [--seed 1] [--json FILE]

Sets are made of real training chips: as they are, turned or mirrored, brightened by a tenth, saved as JPEG,
blended 70:30 with noise, pasted together from 2x2 crops (in the chip's own pixels, and as random crops of a
quarter to the whole chip that are shrunk to a quadrant). Beside them stand held-out chips, which are no leak.
The thresholds are set on validation chips and one half of the test chips; the honest images come from the other
half and are never seen before they are judged.
"""

from __future__ import annotations

import argparse
import io
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image
from torch import from_numpy
from torch.nn import functional

from rsdistill.audit import AuditOptions, Auditor, AuditReport
from rsdistill.datasets import SceneData, SceneView, load_dataset
from rsdistill.distilled import DistilledSet

Pixels = np.ndarray
Planter = Callable[[Pixels, np.ndarray, SceneData, np.random.Generator], Pixels]


def exact(chips, labels, data, random):
    return chips


def dihedral(chips, labels, data, random):
    turned = [np.rot90(chip[..., ::-1] if k >= 4 else chip, k % 4, (1, 2)) for chip, k in _with_turns(chips, random)]
    return np.stack(turned)


def brightened(chips, labels, data, random):
    return np.clip(chips * 1.1, *data.bands.valid_range)


def as_jpeg(quality: int) -> Planter:
    def plant(chips, labels, data, random):
        low, high = data.bands.valid_range
        made = []
        for chip in chips:
            picture = ((chip.transpose(1, 2, 0) - low) / (high - low) * 255).round().astype(np.uint8)
            buffer = io.BytesIO()
            Image.fromarray(picture).save(buffer, "JPEG", quality=quality)
            made.append(np.asarray(Image.open(buffer)).transpose(2, 0, 1) / 255 * (high - low) + low)
        return np.stack(made)

    return plant


def blended(chips, labels, data, random):
    return 0.7 * chips + 0.3 * random.uniform(*data.bands.valid_range, chips.shape)


def pasted(smallest: float, largest: float) -> Planter:
    """Four crops of four chips of the class, each with so large a share of the chip's area."""

    def plant(chips, labels, data, random):
        side, half = chips.shape[-1], chips.shape[-1] // 2
        made = np.empty_like(chips)
        for tile, label in zip(made, labels, strict=True):
            sources = data.train.images(random.choice(np.flatnonzero(data.train.labels == label), 4))
            for quadrant, chip in enumerate(sources):
                crop = max(half, round(side * random.uniform(smallest, largest) ** 0.5))
                top, left = random.integers(0, side - crop + 1, 2)
                part = chip[:, top : top + crop, left : left + crop]
                y, x = divmod(quadrant, 2)
                tile[:, y * half : (y + 1) * half, x * half : (x + 1) * half] = _shrunk(part, half)
        return made

    return plant


LEAKS: dict[str, Planter] = {
    "exact copies": exact,
    "turned or mirrored": dihedral,
    "brightened by 10 %": brightened,
    "JPEG, quality 75": as_jpeg(75),
    "JPEG, quality 40": as_jpeg(40),
    "blended 70:30 with noise": blended,
    "2x2 crops, own pixels": pasted(0.25, 0.25),
    "2x2 crops, a quarter to all": pasted(0.25, 1.0),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--root", required=True, type=Path)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--scheme", default="published")
    parser.add_argument("--count", type=int, default=300, help="images of each kind")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--features", default="auto")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    data = load_dataset(options.data, options.root, size=options.size, scheme=options.scheme)
    random = np.random.default_rng(options.seed)
    started = time.monotonic()
    calibrating, honest = halves(data, options.count, random)
    auditor = Auditor(calibrating, AuditOptions(features=options.features))
    rows = [row("held-out chips (no leak)", auditor.audit(honest))]
    for name, plant in LEAKS.items():
        print(f"{name} ...", flush=True)
        rows.append(row(name, auditor.audit(planted(data, plant, options.count, random))))
    seconds = time.monotonic() - started
    print(table(rows))
    print(f"\n{data.name}, {options.size} px, seed {options.seed}, features: {options.features}, {seconds:.0f} s")
    if options.json:
        found = {"data": data.name, "size": options.size, "seed": options.seed, "seconds": seconds, "rows": rows}
        options.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


def halves(data: SceneData, count: int, random: np.random.Generator) -> tuple[SceneData, DistilledSet]:
    """The dataset with one half of its test chips, and honest images out of the other half."""
    order = random.permutation(len(data.test))
    first, second = (np.sort(part) for part in np.array_split(order, 2))
    kept = replace(data, test=SceneView(data.source, data.test.indices[first]))
    chosen = np.sort(random.choice(second, min(count, len(second)), replace=False))
    return kept, as_set(data, data.test.images(chosen), data.test.labels[chosen])


def planted(data: SceneData, plant: Planter, count: int, random: np.random.Generator) -> DistilledSet:
    chosen = np.sort(random.choice(len(data.train), min(count, len(data.train)), replace=False))
    chips, labels = data.train.images(chosen), data.train.labels[chosen]
    return as_set(data, plant(chips.astype(np.float64), labels, data, random), labels)


def as_set(data: SceneData, images: Pixels, labels: np.ndarray) -> DistilledSet:
    whole = images if data.bands.dtype.startswith("float") else np.round(images)
    images = np.clip(whole, *data.bands.valid_range).astype(data.bands.dtype)
    return DistilledSet(images, labels, data.classes, data.bands, data.gsd, {"method": "planted"})


def row(name: str, report: AuditReport) -> dict[str, object]:
    counts, total = report.counts, len(report.tiles)
    found = {"images": name, "n": total, **{verdict: counts[verdict] / total for verdict in counts}}
    found["flagged"] = found["review"] + found["block"]
    alone = {detector.name: detector.flagged / total for detector in report.detectors}
    null = report.held_out_null_pixels
    return {**found, "alone": alone, "held_out_null": [null.rate, null.low, null.high]}


def table(rows: list[dict]) -> str:
    names = list(rows[0]["alone"])
    lines = ["| images | n | flagged, % | of these blocked, % | " + " | ".join(names) + " |"]
    lines.append("|---" * (4 + len(names)) + "|")
    for found in rows:
        cells = [found["images"], str(found["n"]), f"{100 * found['flagged']:.1f}", f"{100 * found['block']:.1f}"]
        cells += [f"{100 * found['alone'][name]:.0f}" for name in names]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _with_turns(chips: Pixels, random: np.random.Generator) -> list[tuple[Pixels, int]]:
    return [(chip, int(random.integers(1, 8))) for chip in chips]


def _shrunk(part: Pixels, side: int) -> Pixels:
    if part.shape[-1] == side:
        return part
    tensor = from_numpy(np.ascontiguousarray(part, np.float32))[None]
    return functional.interpolate(tensor, (side, side), mode="bilinear", antialias=True)[0].numpy()


if __name__ == "__main__":
    main()
