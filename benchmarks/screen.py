"""Does the screen find real chips of excluded classes among honest tiles?

    python benchmarks/screen.py --root FOLDER --tiles SET.nc CANDIDATES.nc
    python benchmarks/screen.py --root FOLDER

Trains the detector on AID with all classes, slips real test chips of the excluded classes among honest tiles of
other classes, screens, and prints a Markdown table. Honest tiles are those of the first set, further candidates
those of the second; tiles of excluded classes in them are left out. Without sets both are real test chips of
allowed classes, the hardest honest tiles there are. The set must end complete, or the screen says so.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace

import numpy as np

from rsdistill.datasets import SceneData, load_dataset
from rsdistill.distilled import DistilledSet
from rsdistill.evaluation.leakage import aligned, clopper_pearson
from rsdistill.screen import Detector, ScreenOptions, screen, train_detector
from rsdistill.training.trainer import TrainerOptions

EXCLUDED = ("Airport", "Port", "StorageTanks", "RailwayStation")


def honest_sets(data: SceneData, excluded: np.ndarray, paths: list[str], ipc: int) -> tuple[DistilledSet, DistilledSet]:
    """Honest tiles, and further candidates, of allowed classes alone."""
    if paths:
        sets = [aligned(DistilledSet.load(path), data) for path in paths]
        sets = [tiles.subset(~excluded[tiles.label]) for tiles in sets]
        return sets[0], sets[-1]
    random = np.random.default_rng(1)
    chosen = [
        random.choice(np.flatnonzero(data.test.labels == label), 4 * ipc, False) for label in np.flatnonzero(~excluded)
    ]
    parts = [np.concatenate([rows[:ipc] for rows in chosen]), np.concatenate([rows[ipc:] for rows in chosen])]
    return tuple(  # type: ignore[return-value]
        DistilledSet(
            data.test.images(part), data.test.labels[part], data.classes, data.bands, data.gsd, {"method": "real"}
        )
        for part in parts
    )


class Spare:
    """Hands out candidates of the class asked for, one after another."""

    def __init__(self, tiles: DistilledSet, candidates: DistilledSet, seed: int) -> None:
        random = np.random.default_rng(seed)
        self._labels, self._candidates = tiles.label, candidates
        order = random.permutation(len(candidates))
        self._left = {label: [i for i in order if candidates.label[i] == label] for label in np.unique(tiles.label)}

    def __call__(self, positions: np.ndarray, attempt: int) -> DistilledSet:
        return self._candidates.subset(np.array([self._left[self._labels[p]].pop() for p in positions]))


def planted(tiles: DistilledSet, data: SceneData, excluded: np.ndarray, count: int, seed: int) -> tuple:
    """The set with some tiles replaced by real excluded test chips, and where they are."""
    random = np.random.default_rng(seed)
    chips = np.flatnonzero(excluded[data.test.labels])
    where = np.sort(random.choice(len(tiles), count, replace=False))
    image = tiles.image.copy()
    image[where] = data.test.images(random.choice(chips, count, replace=False))
    return replace(tiles, image=image), where


def share(found: np.ndarray) -> str:
    low, high = clopper_pearson(float(found.sum()), len(found))
    return f"{100 * found.mean():.1f} ({100 * low:.0f} to {100 * high:.0f})"


def row(name: str, data: SceneData, detector: Detector, options: ScreenOptions, paths: list[str], args) -> str:
    excluded = detector.excluded
    tiles, candidates = honest_sets(data, excluded, paths, args.ipc)
    caught, alarms, rounds = [], [], []
    for seed in range(args.repeats):
        with_chips, where = planted(tiles, data, excluded, args.plant, seed)
        kept, report = screen(with_chips, [detector], Spare(tiles, candidates, seed), options.attempts)
        assert np.array_equal(np.bincount(kept.label), np.bincount(tiles.label)), "the set is short"
        held = detector.scores(with_chips.image) > detector.figures.threshold
        caught.append(held[where])
        alarms.append(np.delete(held, where))
        rounds.append(report.rounds)
    lot = data.test.images(np.flatnonzero(excluded[data.test.labels]))
    every = detector.scores(lot) > detector.figures.threshold
    least = min(int(c.sum()) for c in caught)
    return (
        f"| {name} | {100 * np.mean(caught):.1f} (fewest {least} of {args.plant}) | {share(every)} | "
        f"{share(alarms[0])} | {max(rounds)} | {len(tiles)} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True, help="folder of AID")
    parser.add_argument("--tiles", nargs=2, default=[], metavar="SET", help="honest tiles, and further candidates")
    parser.add_argument("--network", default="auto", choices=("auto", "imagenet", "student"))
    parser.add_argument("--size", type=int, default=64, help="side of the chips; that of the tiles")
    parser.add_argument("--ipc", type=int, default=10, help="real test chips of each class, without --tiles")
    parser.add_argument("--plant", type=int, default=20, help="excluded chips slipped in")
    parser.add_argument("--repeats", type=int, default=5, help="times that other chips are slipped in")
    parser.add_argument("--classes", nargs="*", help="allowed classes; all that are not excluded unless given")
    parser.add_argument("--steps", type=int, default=ScreenOptions.steps, help="steps of the detector's training")
    args = parser.parse_args()
    classes = args.classes and [*EXCLUDED, *args.classes]
    data = load_dataset("aid", args.root, scheme="published", val=0.1, size=args.size, classes=classes)
    options = ScreenOptions(network=args.network, steps=args.steps)
    begun = time.process_time()
    detector = train_detector(data, EXCLUDED, options, TrainerOptions(progress=False))
    figures = detector.figures
    print(f"{figures.name}: trained in {time.process_time() - begun:.0f} s of processor time;", end=" ")
    print(
        f"on {figures.excluded} + {figures.allowed} val chips {100 * figures.detected:.1f} % of excluded and", end=" "
    )
    print(f"{100 * figures.false_alarms:.1f} % of allowed lie above the threshold {figures.threshold:.3f}.\n")
    print("| honest tiles | planted chips found, % | all excluded test chips found, % | honest held back, % |", end="")
    print(" rounds | tiles, complete |\n|---|---|---|---|---|---|")
    if args.tiles:
        print(row("of the set", data, detector, options, args.tiles, args), flush=True)
    print(row("real test chips", data, detector, options, [], args))


if __name__ == "__main__":
    main()
