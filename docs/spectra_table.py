"""Print how spectra of a finished run agree with real chips by class: ``python docs/spectra_table.py runs/NAME``.

All generated sets of the run together, beside as many real chips chosen at random; both against the train chips and
against the held-out test chips of each class.
"""

import sys
from pathlib import Path

import numpy as np

from rsdistill.datasets import load_prepared
from rsdistill.distilled import DistilledSet
from rsdistill.distillers import create_distiller
from rsdistill.evaluation import index_distance, spectrum_correlation, spectrum_distance

HEAD = (
    "| class | chips | correlation, train | correlation, test | spectrum, reflectance | NDVI "
    "| random: correlation, test | random: spectrum | random: NDVI |"
)


def pooled(sets: list[DistilledSet], label: int) -> np.ndarray:
    """Tiles of a class of all sets."""
    return np.concatenate([tiles.image[tiles.label == label] for tiles in sets])


def table(run: Path) -> str:
    data = load_prepared(next(run.glob("*_prepare")) / "chips")
    made = [DistilledSet.load(path) for path in sorted(next(run.glob("*_audit")).glob("distilled*.nc"))]
    chosen = create_distiller("random").fit(data)
    real = [chosen.distill(made[0].ipc, seed) for seed in range(len(made))]
    rows = []
    for label, entry in enumerate(data.classes):
        train, test = (view.images(np.flatnonzero(view.labels == label)) for view in (data.train, data.test))
        ours, theirs = pooled(made, label), pooled(real, label)
        row = [spectrum_correlation(train, ours, data.bands)]
        for images in (ours, theirs):
            row += [spectrum_correlation(test, images, data.bands), spectrum_distance(test, images, data.bands)]
            row.append(index_distance("ndvi", test, images, data.bands))
        rows.append((entry.name, len(train), row))
    means, worst = (pick([row for *_, row in rows], axis=0) for pick in (np.mean, np.min))
    lines = [HEAD, "|" + "---|" * (HEAD.count("|") - 1)]
    lines += [_line(name, str(count), row) for name, count, row in [*rows, ("mean", "", means)]]
    return "\n".join([*lines, f"\nSmallest correlation: {worst[0]:.4f} with train, {worst[1]:.4f} with test chips."])


def _line(name: str, count: str | int, row: list[float]) -> str:
    digits = (4, 4, 4, 3, 4, 4, 3)
    return f"| {name} | {count} | " + " | ".join(f"{v:.{d}f}" for v, d in zip(row, digits, strict=True)) + " |"


if __name__ == "__main__":
    for path in sys.argv[1:]:
        print(f"## {Path(path).name}\n\n{table(Path(path))}\n")
