"""The protocol: every method under one recipe, on the same test chips, beside its leakage."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm

from rsdistill import distilled as soft_labels
from rsdistill.datasets.base import SceneData
from rsdistill.datasets.real_chips import RealChips
from rsdistill.distilled import DistilledSet
from rsdistill.errors import OptionError, SplitError
from rsdistill.evaluation.leakage import SIZE, Leakage, aligned, leakage
from rsdistill.evaluation.metrics import ACCURACIES, Scores, further_metrics
from rsdistill.evaluation.results import EvaluationReport, Row, Store
from rsdistill.evaluation.student_training import Recipe, predict, train_student
from rsdistill.imaging.pixels import shrink, spread
from rsdistill.models.networks import check_student
from rsdistill.training.trainer import TrainerOptions, resolve_device
from rsdistill.utils.provenance import digest, package_version

FULL = "full"
# Chips whose pixels tell two versions of a dataset apart, beside all names and labels.
_PROBES = 16


@dataclass(frozen=True)
class _Group:
    """Generated sets that share a row: one method, one size, one kind of label. No sets: all real train chips."""

    method: str
    ipc: int | None
    label_type: str
    sets: tuple[DistilledSet, ...]


def evaluate(
    sets: DistilledSet | Mapping[str, Sequence[DistilledSet]],
    data: SceneData,
    recipe: Recipe | Mapping[str, Any] | None = None,
    seeds: Sequence[int] = (0, 1),
    full: bool = True,
    folder: str | Path | None = None,
    options: TrainerOptions | None = None,
    metrics: Sequence[str] = ACCURACIES,
) -> EvaluationReport:
    """Train students on distilled sets and on all real chips, score them on test, and audit the sets.

    Every method may bring several generated sets (generation seeds); each trains one student a training
    seed. Sets of different IPC get rows of their own, and so do hard and soft labels. All inputs, of every
    row and of the test chips, are normalised by the same robust statistics of the real training chips.

    Args:
        sets: One set, or the generated sets of each method by name.
        data: The dataset they were made from, with the same splits.
        recipe: How students are trained: a recipe, its options by name, or None for the defaults.
        seeds: Training seeds.
        full: Whether to add the row that trains on all real training chips.
        folder: Where finished parts are kept; a second call with the same inputs continues from there.
        options: Device and precision; one device is used.
        metrics: Names in ``METRICS``. OA, AA and kappa are always given; others become further columns.

    Returns:
        A row for each method, size and kind of label, with accuracies and leakage.

    Raises:
        OptionError: If there is no set or no seed, or the recipe is not valid.
        SplitError: If there are no test chips.
        AuditError: If a class of a set has no training or no held-out chip.
        BandError: If a set has other bands than the dataset.
        UnknownNameError: If the student, an option, a metric or a class of a set is unknown.
        StorageError: If the folder cannot be written.
    """
    recipe = Recipe.of(recipe)
    check_student(recipe.student, recipe.student_options)
    further = further_metrics(metrics)
    if not seeds or len(set(seeds)) < len(seeds):
        raise OptionError(f"training seeds {list(seeds)}: name at least one, each once")
    if not len(data.test):
        raise SplitError(f"dataset '{data.name}' has no test chips to score on; choose a split that leaves some")
    groups = list(_grouped(sets, data, recipe))
    if full:
        groups.append(_Group(FULL, None, "hard", ()))
    work = _Work(data, recipe, Store(folder), options or TrainerOptions(), further)
    students = sum(max(1, len(group.sets)) for group in groups) * len(seeds)
    with tqdm(total=students, desc="students", disable=None if work.options.progress else True) as bar:
        rows = tuple(work.row(group, seeds, bar) for group in groups)
    return EvaluationReport(data.name, recipe.to_dict(), tuple(seeds), len(data.test), rows)


def _grouped(
    sets: DistilledSet | Mapping[str, Sequence[DistilledSet]], data: SceneData, recipe: Recipe
) -> Iterator[_Group]:
    """The sets by method, size and kind of label, brought to the classes of the dataset."""
    if isinstance(sets, DistilledSet):
        sets = {str(sets.manifest.get("method", "distilled")): [sets]}
    for method, several in sets.items():
        if method == FULL or not several or any(not len(tiles) for tiles in several):
            raise OptionError(f"method '{method}': give at least one set with images, under a name other than '{FULL}'")
        ours = [aligned(tiles, data) for tiles in several]
        for ipc in sorted({tiles.ipc for tiles in ours}):
            same = tuple(tiles for tiles in ours if tiles.ipc == ipc)
            yield _Group(method, ipc, "hard", same)
            if recipe.soft and all(tiles.soft_label is not None for tiles in same):
                yield _Group(method, ipc, "soft", same)


class _Work:
    """One evaluation under way: real chips are read only when something is left to compute."""

    def __init__(
        self, data: SceneData, recipe: Recipe, store: Store, options: TrainerOptions, metrics: Sequence[str] = ()
    ) -> None:
        self.data, self.recipe, self.store, self.options, self.metrics = data, recipe, store, options, metrics
        self._real: dict[int | None, RealChips] = {}
        self._identity = _identity(data)

    def row(self, group: _Group, seeds: Sequence[int], bar: tqdm[Any]) -> Row:
        """Train what is not trained yet, and summarise."""
        scores = []
        for tiles in group.sets or (None,):
            for seed in seeds:
                bar.set_postfix_str(f"{group.method} {group.label_type}, seed {seed}")
                scores.append(self._scores(group, tiles, seed))
                bar.update()
        leak = Leakage.pooled(map(self._leakage, group.sets)) if group.sets else None
        synthetic = any(tiles.is_synthetic for tiles in group.sets)
        count = max(1, len(group.sets))
        size = self._bytes(group)
        return Row.of(
            group.method, group.ipc, self.recipe.student, group.label_type, synthetic, scores, leak, count, size
        )

    def _scores(self, group: _Group, tiles: DistilledSet | None, seed: int) -> Scores:
        content = FULL if tiles is None else tiles.content_digest()
        made_with = [self._identity, content, group.label_type, self.recipe.to_dict(), seed]
        key = digest(["test predictions", package_version(), *made_with])
        saved = self.store.load(key)
        if saved is None:
            predicted = self._train(group, tiles, seed).tolist()
            # Kept as predictions, so that another metric needs no other student.
            saved = {
                "method": group.method,
                "ipc": group.ipc,
                "label_type": group.label_type,
                "seed": seed,
                "test": predicted,
            }
            self.store.save(key, saved)
        return Scores.of(self.data.test.labels, np.asarray(saved["test"]), self.metrics, len(self.data.classes))

    def _train(self, group: _Group, tiles: DistilledSet | None, seed: int) -> NDArray[np.int64]:
        """What a student trained on a set makes of the test chips."""
        real, recipe = self._real_chips(self.recipe.size), self.recipe
        images, labels, soft = real.train.images, real.train.labels, None
        if tiles is None:
            recipe = replace(recipe, steps=recipe.full_steps or recipe.steps)
        else:
            images, labels = shrink(tiles.image, tiles.bands, recipe.size), tiles.label
            soft = tiles.soft_label if group.label_type == "soft" else None
        label = f"{group.method} {group.label_type}, seed {seed}"
        student = train_student(
            images, labels, soft, recipe, len(self.data.classes), seed, real.normalisation, self.options, label
        )
        return predict(student.to(resolve_device(self.options)), real.test.images)

    def _leakage(self, tiles: DistilledSet) -> Leakage:
        key = digest(["leakage", package_version(), self._identity, tiles.content_digest(), SIZE])
        saved = self.store.load(key)
        if saved is None:
            saved = dict(leakage(tiles, self.data, SIZE, real=self._real_chips(SIZE)).to_dict())
            self.store.save(key, saved)
        return Leakage.from_dict(saved)

    def _bytes(self, group: _Group) -> int:
        if not group.sets:
            train = self.data.train
            return len(train) * (train.images(np.array([0])).nbytes + train.labels.itemsize)
        sizes = []
        for tiles in group.sets:
            soft = tiles.soft_label if group.label_type == "soft" else None
            sizes.append(tiles.image.nbytes + (tiles.label.nbytes if soft is None else soft_labels.nbytes(soft)))
        return int(np.mean(sizes))

    def _real_chips(self, size: int | None) -> RealChips:
        if size not in self._real:
            self._real[size] = RealChips.read(self.data, size)
        return self._real[size]


def _identity(data: SceneData) -> str:
    """Digest of a dataset and its splits: all names and labels, and the pixels of a few chips."""
    pixels = hashlib.sha256()
    parts: list[Any] = [data.name, [c.key for c in data.classes], data.bands.to_dict()]
    for view in (data.train, data.val, data.test):
        parts += [list(view.chip_ids), view.labels.tolist()]
        if len(view):
            pixels.update(np.ascontiguousarray(view.images(spread(len(view), _PROBES))).tobytes())
    return digest([*parts, pixels.hexdigest()])
