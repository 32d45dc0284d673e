"""Do tiles show what their prompts say? Captions of known attributes against class prompts alone.

    python benchmarks/captions.py                  the table in docs/results.md
    python benchmarks/captions.py --steps 100      a quick look

SyntheticScenes knows what is true of each chip. Sentences made of that go into a CSV file, the captioner
`file` reads them, and DPD is trained with them and with class prompts alone: same chips, codec, seeds and
steps. Both models then draw as many tiles for every combination of values, from the same noise. A classifier
of each attribute, trained on rendered chips of another seed, says which value a tile shows: agreement is the
share of tiles that show the value asked for. Class prompts cannot ask, so their agreement is what chance and
the class alone give. The classifier's own accuracy on held-out chips is the most that can be expected.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from rsdistill.audit.pixels import Normalisation
from rsdistill.captions import TEMPLATE, Captions, create_captioner
from rsdistill.codecs import LatentStore, create_codec, encode
from rsdistill.codecs.normalise import to_sensor
from rsdistill.datasets import SceneData, load_dataset, load_prepared, prepare
from rsdistill.datasets.synthetic import SyntheticScenes
from rsdistill.diffusion.guidance import GuidanceOptions
from rsdistill.diffusion.sampling import SamplingOptions, sample
from rsdistill.distillers import create_distiller
from rsdistill.evaluation.learning import Student, predict, train_student
from rsdistill.evaluation.recipe import Recipe
from rsdistill.training import TrainerOptions, derived_seed

QUIET = TrainerOptions(progress=False)
CODEC = {"latent_channels": 16, "patch": 4, "block_channels": (128,), "steps": 100, "lr": 5e-4}
# Chips of other seeds than those that the models learn from.
LEARN, JUDGE = 1, 2


@dataclass(frozen=True)
class Attribute:
    """Something that is true of a chip, as one of a few phrases.

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

    def value(self, facts: dict[str, float | str]) -> int | None:
        """Position of the phrase that is true of a chip with these facts; None if nothing is said."""
        fact = facts[self.fact]
        if isinstance(fact, str):
            return self.values.index(fact)
        low, high = self.values
        return 0 if fact < low else 1 if fact > high else None


STAGES = ("bare", "emerging", "green", "ripe", "stubble")
SEASONS = ("spring", "summer", "autumn", "winter")
# The limits part rivers, and densities of houses, into thirds.
ATTRIBUTES = (
    Attribute("river width", ("river",), "river_width_m", ("narrow", "wide"), (23.3, 34.7)),
    Attribute("roof density", ("residential",), "houses_per_ha", ("sparse roofs", "dense roofs"), (17.6, 20.9)),
    Attribute("crop stage", ("cropland",), "crop_stage", tuple(f"{stage} fields" for stage in STAGES), STAGES),
    Attribute("season", ("river", "residential", "cropland"), "season", SEASONS, SEASONS),
)
CLASSES = ATTRIBUTES[-1].classes


def attributes_of(key: str) -> list[Attribute]:
    """Attributes of a class, in the order in which its captions tell them."""
    return [attribute for attribute in ATTRIBUTES if key in attribute.classes]


def caption(key: str, values: tuple[int | None, ...]) -> str:
    """A sentence that tells a class and values of its attributes."""
    told = zip(attributes_of(key), values, strict=True)
    phrases = [attribute.phrases[value] for attribute, value in told if value is not None]
    return ", ".join([TEMPLATE.format(name=key), *phrases])


@dataclass(frozen=True)
class Chips:
    """Rendered chips and what is true of them: images (n, B, H, W), class keys and facts."""

    images: NDArray[np.float32]
    keys: list[str]
    facts: list[dict[str, float | str]]

    @classmethod
    def render(cls, chips: int, size: int, seed: int) -> Chips:
        source = SyntheticScenes(size=size, chips_per_class=chips, seed=seed, classes=CLASSES)
        every = range(len(source))
        keys = [source.classes[label].key for label in source.labels]
        images = np.stack([source.read(index) for index in every]).astype(np.float32)
        return cls(images, keys, [source.attributes(index) for index in every])

    def having(self, attribute: Attribute) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Images of which an attribute is said, and its values."""
        chips = enumerate(zip(self.keys, self.facts, strict=True))
        values = {index: attribute.value(facts) for index, (key, facts) in chips if key in attribute.classes}
        said = {index: value for index, value in values.items() if value is not None}
        return self.images[list(said)], np.array(list(said.values()))


def read_captions(data: SceneData, folder: Path) -> Captions:
    """True sentences of the train chips, by way of a CSV file and the captioner that reads it."""
    source = data.source
    assert isinstance(source, SyntheticScenes)
    with (folder / "captions.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("filename", "caption"))
        for index in data.train.indices:
            key, facts = source.classes[source.labels[index]].key, source.attributes(int(index))
            values = tuple(attribute.value(facts) for attribute in attributes_of(key))
            rows.writerow((source.chip_ids[index], caption(key, values)))
    return create_captioner("file", path=str(folder / "captions.csv")).caption(data)


def judge(attribute: Attribute, learn: Chips, held_out: Chips, options: argparse.Namespace) -> tuple[Student, float]:
    """A classifier of an attribute, and its accuracy on held-out chips."""
    images, values = learn.having(attribute)
    unseen, truth = held_out.having(attribute)
    recipe = Recipe(steps=options.judge_steps, size=None, student_options={"width": 32})
    normalisation = Normalisation.of(torch.from_numpy(images))
    student = train_student(images, values, None, recipe, len(attribute.phrases), 0, normalisation, QUIET)
    return student, float((predict(student, unseen) == truth).mean())


def requests(tiles: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Class and values of every tile to draw: each combination equally often."""
    for key in CLASSES:
        for values in product(*(range(len(attribute.phrases)) for attribute in attributes_of(key))):
            yield from [(key, values)] * tiles


def draw(
    data: SceneData, latents: LatentStore, captions: Captions | None, options: argparse.Namespace
) -> NDArray[np.float32]:
    """Tiles (n, B, H, W) of a model trained with these captions, one for each request."""
    training = {"steps": options.steps, "batch": options.batch, "max_laps": None}
    method = create_distiller("dpd", preset=options.preset, training=training, seed=options.seed)
    method.attach(data, latents, captions).fit_stage("train", None, QUIET)
    asked = list(requests(options.tiles))
    told = [TEMPLATE.format(name=key) if captions is None else caption(key, values) for key, values in asked]
    seeds = [derived_seed(options.seed, number) for number in range(len(asked))]
    sampling = SamplingOptions(options.sampling_steps, options.text_scale, guidance=GuidanceOptions(scale=0.0))
    drawn = sample(method.model_, told, seeds, None, sampling, progress=False)
    return np.concatenate([to_sensor(latents.codec.decode(part), data.bands) for part in drawn.split(64)])


def agreement(student: Student, attribute: Attribute, tiles: NDArray[np.float32], options: argparse.Namespace) -> float:
    """Share of the tiles that show the value of the attribute that was asked for."""
    which, wanted = [], []
    for number, (key, values) in enumerate(requests(options.tiles)):
        if attribute in attributes_of(key):
            which.append(number)
            wanted.append(values[attributes_of(key).index(attribute)])
    return float((predict(student, tiles[which].astype(np.float32)) == np.array(wanted)).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chips", type=int, default=400, help="chips a class, of which half train")
    parser.add_argument("--size", type=int, default=32, help="side of the chips, pixels")
    parser.add_argument("--steps", type=int, default=800, help="training steps of each model")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--text-scale", type=float, default=3.0, help="classifier-free guidance")
    parser.add_argument("--sampling-steps", type=int, default=20)
    parser.add_argument("--tiles", type=int, default=6, help="tiles for each combination of values")
    parser.add_argument("--judge-chips", type=int, default=1000, help="chips a class that a classifier learns from")
    parser.add_argument("--judge-steps", type=int, default=800)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    start = time.perf_counter()
    data = load_dataset("synthetic", size=options.size, chips_per_class=options.chips, classes=CLASSES)
    learn = Chips.render(options.judge_chips, options.size, LEARN)
    held_out = Chips.render(max(1, options.judge_chips // 3), options.size, JUDGE)
    log(f"{len(learn.keys)} and {len(held_out.keys)} chips to learn and judge classifiers by", start)
    judges = {attribute: judge(attribute, learn, held_out, options) for attribute in ATTRIBUTES}
    log(f"classifiers: {[round(accuracy, 3) for _, accuracy in judges.values()]}", start)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        captions = read_captions(data, folder)
        # Chips are rendered once, instead of anew at each reading.
        prepare(data, folder / "chips")
        data = load_prepared(folder / "chips")
        codec = create_codec("kl", data.bands, **CODEC).fit(data, trainer=QUIET)
        latents = encode(codec, data, folder / "latents.zarr", progress=False)
        log(f"{len(latents.label)} latents, {len(set(captions))} different captions", start)
        drawn = {}
        for kind, used in (("class prompts", None), ("captions", captions)):
            drawn[kind] = draw(data, latents, used, options)
            log(f"{len(drawn[kind])} tiles by {kind}", start)

    print("| attribute | values | classifier on held-out chips | class prompts | captions | rise |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    found = []
    for attribute, (student, accuracy) in judges.items():
        template, said = (agreement(student, attribute, tiles, options) for tiles in drawn.values())
        found.append((accuracy, template, said))
        print(row(attribute.title, str(len(attribute.phrases)), accuracy, template, said))
    print(row("mean", "", *np.mean(found, axis=0)))


def row(title: str, values: str, accuracy: float, template: float, said: float) -> str:
    shares = " | ".join(f"{100 * share:.1f}" for share in (accuracy, template, said, said - template))
    return f"| {title} | {values} | {shares} |"


def log(text: str, start: float) -> None:
    print(f"{time.perf_counter() - start:6.0f} s  {text}", flush=True)


if __name__ == "__main__":
    main()
