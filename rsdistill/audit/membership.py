"""Membership inference by likelihood ratio: does a student betray which chips its training set came from?

An attacker holds the distilled set, trains students on it, and asks of a real chip whether it was in the
train view that the set was distilled from. Train chips are members, as many held-out chips of each class
are not. The attack is that of Carlini et al. (2022): the statistic of a chip is the student's confidence in
the chip's class on the logit scale; shadow students, trained without the chip, say how easy the chip is
anyway. Two variants are used:

- ``online``, for a student trained on all real train chips. Shadows train on random halves of members and
  non-members, so every chip has shadows with and without it, of the target's own size and recipe. The
  score is the ratio of the two Gaussian likelihoods.
- ``offline``, for distilled sets. Exact shadows would need the whole method, diffusion model included, to
  be trained anew for each. Instead shadows train on random real chips, as many of each class as the set
  holds, drawn alike from members and non-members; those without the chip give its expected confidence.
  Students of generated images are less sure than those of real ones, and of some classes more than of
  others, so the expectation is calibrated: the target's confidences are regressed on the shadows', with an
  intercept for each class (Watson et al., 2022, call it difficulty calibration). The score is the residual.

No step of either tells members from non-members except through the target's training set, and variances
are pooled over chips, as Carlini et al. do for few shadows. So without leakage the area under the curve is
0.5 whatever the shadows are worth. What a weak shadow costs is power: the attack can show leakage, and a
figure near chance cannot prove that there is none.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from tqdm.auto import tqdm

from rsdistill.audit.attack import Attack, MembershipResult
from rsdistill.datasets.base import SceneData
from rsdistill.datasets.real_chips import Chips, RealChips
from rsdistill.distilled import DistilledSet
from rsdistill.errors import AuditError
from rsdistill.evaluation.leakage import aligned
from rsdistill.evaluation.results import Store
from rsdistill.evaluation.student_training import Recipe, Student, train_student
from rsdistill.imaging.normalisation import StandardNormalisation
from rsdistill.imaging.pixels import blocks, shrink, spread
from rsdistill.imaging.pixels import turned as symmetry
from rsdistill.models.networks import check_student
from rsdistill.training.trainer import TrainerOptions, derived_seed, resolve_device
from rsdistill.utils.options import parse_options
from rsdistill.utils.provenance import digest, package_version

FULL = "full"
FloatArray = NDArray[np.float64]
Mask = NDArray[np.bool_]
_QUERY_BATCH = 256
_STATISTICS_CHIPS = 512
# Streams of random numbers that must not repeat each other.
_POOL, _SHADOW_CHIPS, _SHADOW, _TARGET = range(40, 44)


@dataclass(frozen=True)
class MembershipOptions:
    """How strong the attack is.

    Attributes:
        shadow_sets: Random sets of real chips; a shadow student is trained on each, and more of them know better
            how easy each chip is.
        targets: Students trained on the set under attack, whose evidence is added up.
        views: Symmetries of the square that each chip is asked in: 1, 2, 4 or 8.
        seed: Seed of the chips chosen and of the students.
    """

    RENAMED: ClassVar = {"shadows": "shadow_sets"}

    shadow_sets: Annotated[int, Field(ge=4)] = 8
    targets: Annotated[int, Field(ge=1)] = 2
    views: Literal[1, 2, 4, 8] = 2
    seed: int = 0

    @classmethod
    def of(cls, options: MembershipOptions | Mapping[str, Any] | None) -> MembershipOptions:
        """Options as they stand in a config; errors as of :func:`parse_options`."""
        given = options if isinstance(options, Mapping) else vars(options or cls())
        return parse_options(cls, given, "membership")


def membership(
    tiles: DistilledSet | None,
    data: SceneData,
    recipe: Recipe | Mapping[str, Any] | None = None,
    options: MembershipOptions | Mapping[str, Any] | None = None,
    folder: str | Path | None = None,
    trainer: TrainerOptions | None = None,
) -> MembershipResult:
    """Attack students trained on a distilled set, or on all real train chips.

    Members and non-members are equally many chips of each class that the set has.

    Args:
        tiles: The distilled set; None attacks students trained on all train chips.
        data: The dataset that it was made from, with the same splits.
        recipe: How students are trained, targets and shadows alike.
        options: How strong the attack is.
        folder: Where the answers of finished students are kept; a second call continues from there, and
            sets of the same size share their shadows.
        trainer: Device and precision; one device is used.

    Raises:
        AuditError: If the set is empty, a class has no train or held-out chip, or too few for shadows of the
            set's size.
        BandError: If the bands differ.
        UnknownNameError: If the set has a class that the dataset lacks, or an option is unknown.
        OptionError: If recipe or options are not valid.
        StorageError: If the folder cannot be written.

    Source: Carlini et al., Membership inference attacks from first principles, 2022.
    """
    recipe, options = Recipe.of(recipe), MembershipOptions.of(options)
    check_student(recipe.student, recipe.student_options)
    if tiles is not None:
        if not len(tiles):
            raise AuditError("the distilled set is empty; there is nothing to attack")
        tiles = aligned(tiles, data)
    pool = _Pool.draw(data, tiles, recipe.size, options.seed)
    attack = _FullAttack(pool, recipe) if tiles is None else _SetAttack(pool, recipe, tiles)
    work = _Work(pool, options, Store(folder), trainer or TrainerOptions())
    scores = attack.scores(*work.answers(attack))
    held = None if tiles is None else _held_chips(tiles, data, pool)
    return MembershipResult(
        dataset=data.name,
        method=attack.method,
        ipc=None if tiles is None else tiles.ipc,
        label_type=attack.label_type,
        variant=attack.variant,
        shadows=options.shadow_sets,
        targets=options.targets,
        in_view=Attack(scores[pool.member], scores[~pool.member]),
        in_set=None if held is None else Attack(scores[held], scores[~pool.member]),
    )


@dataclass(frozen=True, eq=False)
class _Pool:
    """The chips that the attack asks about, members first, and train chips that it does not.

    Attributes:
        chips: Members and non-members, equally many of each class.
        rest: Train chips that found no held-out partner; in every training set of all real chips.
        position: Positions of the members in the train view, (m,).
        normalisation: Of members and non-members alike.
        classes: Number of classes of the dataset.
    """

    chips: Chips
    rest: Chips
    position: NDArray[np.int64]
    normalisation: StandardNormalisation
    classes: int

    @classmethod
    def draw(cls, data: SceneData, tiles: DistilledSet | None, size: int | None, seed: int) -> _Pool:
        real = RealChips.read(data, size)
        train, held_out = real.train, real.held_out
        members, others = [], []
        for label in range(len(data.classes)) if tiles is None else np.unique(tiles.label).tolist():
            inside, outside = np.flatnonzero(train.labels == label), np.flatnonzero(held_out.labels == label)
            count = min(len(inside), len(outside))
            if not count:
                raise AuditError(
                    f"class '{data.classes[label].key}' of dataset '{data.name}' has {len(inside)} train and "
                    f"{len(outside)} held-out chips; membership needs some of both, choose another split"
                )
            random = np.random.default_rng(derived_seed(seed, _POOL, label))
            members.append(np.sort(random.choice(inside, count, replace=False)))
            others.append(np.sort(random.choice(outside, count, replace=False)))
        position, other = np.concatenate(members), np.concatenate(others)
        images = torch.cat([train.images[position], held_out.images[other]])
        chips = Chips(images, np.concatenate([train.labels[position], held_out.labels[other]]))
        rest = np.setdiff1d(np.arange(len(train)), position)
        return cls(
            chips,
            Chips(train.images[rest], train.labels[rest]),
            position,
            StandardNormalisation.of(images[spread(len(images), _STATISTICS_CHIPS)]),
            len(data.classes),
        )

    @property
    def member(self) -> Mask:
        """Which chips are members, (2m,)."""
        return np.arange(len(self.chips)) < len(self.position)

    def digest(self) -> str:
        """sha256 over all that students and answers depend on."""
        sha = hashlib.sha256(np.concatenate([self.chips.labels, self.rest.labels]).tobytes())
        for images in (self.chips.images, self.rest.images):
            sha.update(str(tuple(images.shape)).encode())
            sha.update(np.ascontiguousarray(images.numpy()).data)
        return digest([sha.hexdigest(), self.normalisation.to_dict(), self.classes])

    def draws(self, counts: NDArray[np.int64], shadows: int, seed: int) -> Mask:
        """Which chips each shadow trains on, (shadows, 2m): random ones, ``counts`` of each class.

        Draws go through all chips of a class before any is taken again, so that all are in equally often.
        """
        chosen = np.zeros((shadows, len(self.chips)), bool)
        for label in np.flatnonzero(counts).tolist():
            members = np.flatnonzero(self.chips.labels == label)
            random = np.random.default_rng(derived_seed(seed, _SHADOW_CHIPS, label))
            lap = len(members) // int(counts[label])
            for shadow in range(shadows):
                if shadow % lap == 0:
                    order = random.permutation(members)
                start = shadow % lap * int(counts[label])
                chosen[shadow, order[start : start + int(counts[label])]] = True
        return chosen


class _FullAttack:
    """On students trained on all real train chips."""

    method, label_type, variant = FULL, "hard", "online"

    def __init__(self, pool: _Pool, recipe: Recipe) -> None:
        self.recipe = replace(recipe, steps=recipe.full_steps or recipe.steps)
        # Half of each class, so that shadows are as large as the train view.
        self.counts = np.bincount(pool.chips.labels[pool.member], minlength=pool.classes)
        self.content, self.soft, self._pool = FULL, None, pool

    def target(self) -> Chips:
        """What target students train on."""
        return self.joined(self._pool.member)

    def joined(self, chosen: Mask) -> Chips:
        """The chosen chips and the rest of the train view."""
        chips, rest = self._pool.chips, self._pool.rest
        images = torch.cat([rest.images, chips.images[torch.from_numpy(chosen)]])
        return Chips(images, np.concatenate([rest.labels, chips.labels[chosen]]))

    def scores(self, targets: FloatArray, shadows: FloatArray, inside: Mask) -> FloatArray:
        """Log likelihood ratio of in against out, mean over the targets, (2m,)."""
        with_chip, deviation_in = _gaussians(shadows, inside)
        without, deviation_out = _gaussians(shadows, ~inside)
        near_in, near_out = (targets - with_chip) / deviation_in, (targets - without) / deviation_out
        return np.asarray((near_out**2 - near_in**2).mean(axis=0) / 2.0)


class _SetAttack:
    """On students trained on a distilled set."""

    variant = "offline"

    def __init__(self, pool: _Pool, recipe: Recipe, tiles: DistilledSet) -> None:
        self.recipe, self._pool, self._tiles = recipe, pool, tiles
        self.method = str(tiles.manifest.get("method", "distilled"))
        self.soft = tiles.soft_label if recipe.soft else None
        self.label_type = "hard" if self.soft is None else "soft"
        self.counts = np.bincount(tiles.label, minlength=pool.classes)
        self.content = tiles.content_digest()
        available = np.bincount(pool.chips.labels, minlength=pool.classes)
        for label in np.flatnonzero(self.counts * 2 > available).tolist():
            raise AuditError(
                f"class '{tiles.classes[label].key}' has {self.counts[label]} images in the set but only "
                f"{available[label]} real chips to draw shadows from; membership needs twice as many as the set"
            )

    def target(self) -> Chips:
        """What target students train on."""
        return Chips(shrink(self._tiles.image, self._tiles.bands, self.recipe.size), self._tiles.label)

    def joined(self, chosen: Mask) -> Chips:
        """The chosen chips."""
        chips = self._pool.chips
        return Chips(chips.images[torch.from_numpy(chosen)], chips.labels[chosen])

    def scores(self, targets: FloatArray, shadows: FloatArray, inside: Mask) -> FloatArray:
        """How much surer the targets are than the shadows without the chip let expect, (2m,), in deviations."""
        expected, _ = _gaussians(shadows, ~inside)
        found = targets.mean(axis=0)
        labels = self._pool.chips.labels
        by_class = (labels[:, None] == np.unique(labels)).astype(np.float64)
        design = np.column_stack([by_class, expected])
        residual = found - design @ np.linalg.lstsq(design, found, rcond=None)[0]
        return np.asarray(residual / max(float(residual.std()), np.finfo(np.float64).tiny))


_Kind = _FullAttack | _SetAttack


class _Work:
    """Trains the students of an attack that are not trained yet, and asks them."""

    def __init__(self, pool: _Pool, options: MembershipOptions, store: Store, trainer: TrainerOptions) -> None:
        self._pool, self._options, self._store, self._trainer = pool, options, store, trainer
        self._identity = pool.digest()

    def answers(self, attack: _Kind) -> tuple[FloatArray, FloatArray, Mask]:
        """Confidences of the targets (t, 2m) and shadows (s, 2m), and which chips each shadow was trained on."""
        options = self._options
        inside = self._pool.draws(attack.counts, options.shadow_sets, options.seed)
        total = options.shadow_sets + options.targets
        shadows, targets = [], []
        with tqdm(total=total, desc=f"membership {attack.method}", disable=not self._trainer.progress) as bar:
            for number, chosen in enumerate(inside):
                seed = derived_seed(options.seed, _SHADOW, number)
                content = np.flatnonzero(chosen).tolist()
                shadows.append(self._answer(attack, content, seed, f"shadow {number}"))
                bar.update()
            for number in range(options.targets):
                seed = derived_seed(options.seed, _TARGET, number)
                targets.append(self._answer(attack, None, seed, f"target {number}"))
                bar.update()
        return np.stack(targets), np.stack(shadows), inside

    def _answer(self, attack: _Kind, chosen: list[int] | None, seed: int, label: str) -> FloatArray:
        """Confidences (2m,) of one student, trained on chosen chips of the pool or, if None, on the target's."""
        content = [attack.content, attack.label_type] if chosen is None else [attack.variant, chosen]
        parts = [package_version(), self._identity, content, attack.recipe.to_dict(), seed, self._options.views]
        key = digest(["membership", *parts])
        saved = self._store.load(key)
        if saved is None:
            pool, soft = self._pool, None
            if chosen is None:
                chips, soft = attack.target(), attack.soft
            else:
                chips = attack.joined(np.isin(np.arange(len(pool.chips)), chosen))
            made_by = attack.recipe, pool.classes, seed, pool.normalisation, self._trainer, label
            student = train_student(chips.images, chips.labels, soft, *made_by)
            found = confidences(student.to(resolve_device(self._trainer)), pool.chips, self._options.views)
            saved = {"confidence": found.tolist()}
            self._store.save(key, saved)
        return np.asarray(saved["confidence"], np.float64)


@torch.inference_mode()
def confidences(student: Student, chips: Chips, views: int = 1) -> FloatArray:
    """A student's confidence in the class of each chip, on the logit scale: ``log(p / (1 - p))``.

    On this scale the confidences of several students in one chip are about normally distributed.

    Args:
        student: A trained student.
        chips: Chips in sensor units with their classes.
        views: Symmetries of the square to average over: 1, 2, 4 or 8.

    Returns:
        Confidences (n,), computed without rounding to 0 or infinity.
    """
    device = next(student.parameters()).device
    found = []
    for part in blocks(len(chips), _QUERY_BATCH):
        images = chips.images[torch.from_numpy(part)].to(device)
        labels = torch.from_numpy(chips.labels[part]).to(device)[:, None]
        total = torch.zeros(len(part), dtype=torch.float64, device=device)
        for view in range(views):
            turned = symmetry(images, view // 2, mirror=bool(view % 2))
            logits = student(turned).double()
            others = logits.scatter(1, labels, -torch.inf).logsumexp(1)
            total += logits.gather(1, labels)[:, 0] - others
        found.append((total / views).cpu())
    return np.asarray(torch.cat(found).numpy(), np.float64)


def _gaussians(confidence: FloatArray, chosen: Mask) -> tuple[FloatArray, float]:
    """Mean of each chip (2m,) over the students chosen for it, and one deviation pooled over all chips."""
    count = chosen.sum(axis=0)
    mean = np.where(chosen, confidence, 0.0).sum(axis=0) / count
    squares = float((np.where(chosen, confidence - mean, 0.0) ** 2).sum())
    freedom = max(1, int((count - 1).sum()))
    return mean, max(float(np.sqrt(squares / freedom)), np.finfo(np.float64).tiny)


def _held_chips(tiles: DistilledSet, data: SceneData, pool: _Pool) -> Mask | None:
    """Which chips of the pool the set holds unchanged, (2m,); None if it holds none."""
    if tiles.is_synthetic:
        return None
    held = {_pixels(image) for image in tiles.image}
    found = np.zeros(len(pool.chips), bool)
    for part in blocks(len(pool.position)):
        images = data.train.images(pool.position[part])
        found[part] = [_pixels(image) in held for image in images]
    return found if found.any() else None


def _pixels(image: NDArray[Any]) -> bytes:
    return hashlib.sha256(np.ascontiguousarray(image).tobytes()).digest()
