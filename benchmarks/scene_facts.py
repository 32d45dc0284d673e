"""What is true of a rendered scene: told in captions, and read off tiles by a judge."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import nn

from rsdistill.captions import TEMPLATE
from rsdistill.codecs.store import VIEWS
from rsdistill.datasets.synthetic import SyntheticScenes
from rsdistill.imaging.pixels import dihedral
from rsdistill.utils.provenance import digest

Facts = Mapping[str, float | str]


@dataclass(frozen=True)
class Attribute:
    """Something that is true of a scene, as one of a few phrases.

    Attributes:
        title: What it is called in the table.
        classes: Classes that have it.
        fact: Its name among the facts of a chip.
        phrases: What a caption says for each value.
        values: The words that the fact can be; or, for a number, the limits below and above which it has the
            first or the second phrase, while nothing is said of what lies between.
    """

    title: str
    classes: tuple[str, ...]
    fact: str
    phrases: tuple[str, ...]
    values: tuple[str, ...] | tuple[float, float]

    def value(self, facts: Facts) -> int | None:
        """Position of the phrase that is true of a chip with these facts; None if nothing is said."""
        fact = facts[self.fact]
        if isinstance(fact, str):
            return self.values.index(fact)
        low, high = self.values
        return 0 if fact < low else 1 if fact > high else None


STAGES = ("bare", "emerging", "green", "ripe", "stubble")
SEASONS = ("spring", "summer", "autumn", "winter")
CLASSES = ("river", "residential", "cropland", "forest")
# Limits of numbers part the scenes of a class into thirds.
ATTRIBUTES = (
    Attribute("river width", ("river",), "river_width_m", ("narrow", "wide"), (23.3, 34.7)),
    Attribute("roof density", ("residential",), "houses_per_ha", ("sparse roofs", "dense roofs"), (17.6, 20.9)),
    Attribute("crop stage", ("cropland",), "crop_stage", tuple(f"{stage} fields" for stage in STAGES), STAGES),
    Attribute("season", CLASSES, "season", SEASONS, SEASONS),
)
# What the judge is asked: each attribute, class by class.
QUESTIONS = tuple((attribute, key) for attribute in ATTRIBUTES for key in attribute.classes)


def attributes_of(key: str) -> list[Attribute]:
    """Attributes of a class, in the order in which its captions tell them."""
    return [attribute for attribute in ATTRIBUTES if key in attribute.classes]


def caption(key: str, values: Sequence[int | None]) -> str:
    """A sentence that tells a class and values of its attributes."""
    told = zip(attributes_of(key), values, strict=True)
    phrases = [attribute.phrases[value] for attribute, value in told if value is not None]
    return ", ".join([TEMPLATE.format(name=key), *phrases])


@dataclass(frozen=True)
class Scenes:
    """Rendered chips and what is true of them: images (n, B, H, W), class keys and facts."""

    images: NDArray[np.float32]
    keys: list[str]
    facts: list[Facts]

    @classmethod
    def render(cls, chips: int, size: int, seed: int, folder: Path) -> Scenes:
        """So many chips of each class; kept in the folder, since facts cost as much as pictures do."""
        path = folder / f"scenes-{chips}-{size}-{seed}"
        if not path.with_suffix(".json").exists():
            source = SyntheticScenes(size=size, chips_per_class=chips, scene_seed=seed, classes=CLASSES)
            np.save(path.with_suffix(".npy"), np.stack([source.read(index) for index in range(len(source))]))
            keys = [source.classes[label].key for label in source.labels]
            facts = [source.attributes(index) for index in range(len(source))]
            path.with_suffix(".json").write_text(json.dumps([keys, facts]))
        keys, facts = json.loads(path.with_suffix(".json").read_text())
        return cls(np.load(path.with_suffix(".npy")).astype(np.float32), keys, facts)

    def answers(self) -> NDArray[np.int64]:
        """True answer to each question, (n, questions); -1 where nothing is said."""
        told = [
            [attribute.value(facts) if key == asked else None for attribute, asked in QUESTIONS]
            for key, facts in zip(self.keys, self.facts, strict=True)
        ]
        return np.array([[-1 if value is None else value for value in row] for row in told])


_WIDTHS = (32, 64, 96, 128)
_BATCH = 64


class Judge(nn.Module):
    """A small convolutional network with one head a question.

    It normalises by batch, not by image as the students of the evaluation do: how green or bright an
    image is as a whole tells its season.

    Args:
        mean: Mean of each band (B,).
        deviation: Standard deviation of each band (B,).
    """

    def __init__(self, mean: torch.Tensor, deviation: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean[:, None, None])
        self.register_buffer("deviation", deviation[:, None, None])
        layers: list[nn.Module] = []
        before = len(mean)
        for width in _WIDTHS:
            layers += [nn.Conv2d(before, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
            layers += [nn.MaxPool2d(2)] if width != _WIDTHS[-1] else []
            before = width
        self.trunk = nn.Sequential(*layers)
        self._sizes = [len(attribute.phrases) for attribute, _ in QUESTIONS]
        self.heads = nn.Linear(2 * before, sum(self._sizes))

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Logits of each question's answers, for chips (n, B, H, W) in sensor units."""
        found = self.trunk((images - self.mean) / self.deviation)
        logits = self.heads(torch.cat([found.mean((2, 3)), found.amax((2, 3))], 1))
        return logits.split(self._sizes, 1)

    @torch.inference_mode()
    def answers(self, images: NDArray[np.float32]) -> NDArray[np.int64]:
        """Likeliest answer to each question, (n, questions)."""
        parts = [self(part) for part in torch.from_numpy(images).split(256)]
        return np.concatenate([torch.stack([head.argmax(1) for head in part], 1).numpy() for part in parts])


def train_judge(scenes: Scenes, coded: NDArray[np.float32], steps: int, tuning: int, folder: Path) -> Judge:
    """A judge that learns from scenes, then from these together with the same after a codec; kept in the folder.

    Args:
        scenes: Chips to learn from.
        coded: The same chips (n, B, H, W), encoded and decoded.
        steps: Steps on scenes alone.
        tuning: Steps on both.
        folder: Where the weights are kept.
    """
    images, answers = torch.from_numpy(scenes.images), torch.from_numpy(scenes.answers())
    torch.manual_seed(0)
    judge = Judge(images.mean((0, 2, 3)), images.std((0, 2, 3)))
    key = [len(images), steps, repr(QUESTIONS)]
    _learn(judge, images, answers, steps, 2e-3, folder / f"judge-{digest(key)[:12]}.pt")
    both = torch.cat([images, torch.from_numpy(coded)])
    _learn(judge, both, answers.repeat(2, 1), tuning, 1e-3, folder / f"judge-{digest([*key, tuning])[:12]}.pt")
    return judge.eval()


def _learn(judge: Judge, images: torch.Tensor, answers: torch.Tensor, steps: int, lr: float, kept: Path) -> None:
    """Train a judge on turned and flipped chips by what is said of them, unless it was trained before."""
    if kept.exists():
        judge.load_state_dict(torch.load(kept, weights_only=True))
        return
    torch.manual_seed(0)
    optimiser = torch.optim.AdamW(judge.parameters(), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, lr, total_steps=steps, pct_start=0.1)
    for step in range(steps):
        chosen = torch.randint(len(images), (_BATCH,))
        logits = judge(dihedral(images[chosen], step % VIEWS))
        losses = [
            F.cross_entropy(head, truth, ignore_index=-1, reduction="sum")
            for head, truth in zip(logits, answers[chosen].T, strict=True)
        ]
        optimiser.zero_grad()
        (torch.stack(losses).sum() / _BATCH).backward()
        optimiser.step()
        schedule.step()
    torch.save(judge.state_dict(), kept)


def accuracy(found: NDArray[np.int64], truth: NDArray[np.int64]) -> list[float]:
    """Share of right answers to each question, among those that have one."""
    return [float((found[said, n] == truth[said, n]).mean()) for n, said in enumerate((truth >= 0).T)]
