"""Do tiles show what their prompts say? Captions of known attributes against class prompts alone.

    python benchmarks/captions.py                  the table in docs/results.md
    python benchmarks/captions.py --steps 100      a quick look
    python benchmarks/captions.py --guidance-scale 3   another strength of the words, with the same models

SyntheticScenes knows what is true of each chip. Sentences made of that go into a CSV file, the captioner
`file` reads them, and DPD is trained with them and with class prompts alone: same chips, codec, seeds and
steps. Both models then draw the same number of tiles for every combination of values, from the same noise. A judge,
trained on rendered chips of another seed, says which value a tile shows: agreement is the share of tiles that
show the value asked for. Class prompts cannot ask, so their agreement is what chance and the class give.

The judge learns from chips as they are and as the codec gives them back: one that has seen only the former goes by
texture that no tile has. Its accuracy on chips of a third seed, after the codec, is the most that can be expected.
What it cannot read there is no measure: an attribute of a class counts only if the judge comes at least --least of
the way from chance to certainty, which is settled before a tile is drawn.

Everything is kept in a folder under --out, so that a second call goes on where the first one was stopped.
"""

from __future__ import annotations

import argparse
import csv
import json
import time
from collections.abc import Callable
from itertools import cycle, islice, product
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scene_facts import ATTRIBUTES, CLASSES, QUESTIONS, Attribute, Scenes, accuracy, attributes_of, caption, train_judge

from rsdistill.captions import TEMPLATE, Captions, create_captioner
from rsdistill.codecs import LatentStore, create_codec, encode, load_codec
from rsdistill.codecs.base import Codec
from rsdistill.datasets import SceneData, load_dataset, load_prepared, prepare
from rsdistill.datasets.synthetic import SyntheticScenes
from rsdistill.diffusion.guidance import GuidanceOptions
from rsdistill.diffusion.sampling import SamplingOptions, sample
from rsdistill.distillers import create_distiller
from rsdistill.imaging.normalisation import to_sensor
from rsdistill.training.trainer import TrainerOptions, derived_seed
from rsdistill.utils.options import plain
from rsdistill.utils.provenance import digest

QUIET = TrainerOptions(progress=False)
CODEC = {"latent_channels": 16, "patch": 4, "block_channels": (128,), "steps": 100, "lr": 5e-4}
# Seeds of the chips that the models, the judge, and the judge's examination go by.
TRAIN, LEARN, EXAMINE = 0, 1, 2


def main() -> None:
    """Train judge and models, draw tiles and print the table."""
    options = parsed()
    start = time.perf_counter()

    def log(text: str) -> None:
        print(f"{time.perf_counter() - start:6.0f} s  {text}", flush=True)

    folder = options.out / "scenes"
    folder.mkdir(parents=True, exist_ok=True)
    data, captions, latents = trained_on(options, folder)
    log(f"{len(data.train)} chips to train on, {len(set(captions))} different captions")
    counts = {LEARN: options.judge_chips, EXAMINE: options.judge_chips // 5}
    learn, unseen = (Scenes.render(chips, options.size, seed, folder) for seed, chips in counts.items())
    coded, decoded = (
        through(latents.codec, scenes.images, latents.path.with_name(f"decoded-{chips}-{seed}.npy"))
        for scenes, (seed, chips) in zip((learn, unseen), counts.items(), strict=True)
    )
    log(f"{len(learn.keys)} chips for the judge to learn from and {len(unseen.keys)} to examine it")
    judge = train_judge(learn, coded, options.judge_steps, options.judge_tuning, folder)
    truth = unseen.answers()
    real, ceiling = (accuracy(judge.answers(images), truth) for images in (unseen.images, decoded))
    read = [
        may_count(attribute, right, options.least) for (attribute, _), right in zip(QUESTIONS, ceiling, strict=True)
    ]
    for n, (attribute, key) in enumerate(QUESTIONS):
        note = "" if read[n] else ", does not count"
        log(f"judge: {attribute.title} of {key}: {100 * real[n]:.1f} %, decoded {100 * ceiling[n]:.1f} %{note}")
    if not any(read):
        raise SystemExit("the judge reads no attribute well enough; give it more --judge-chips or --judge-steps")
    found = {}
    for kind, used in (("captions", captions), ("class prompts", None)):
        found[kind] = judge.answers(drawn(data, latents, used, options, log))
    print(table(read, real, ceiling, requests(options.tiles), found["class prompts"], found["captions"]))


def parsed() -> argparse.Namespace:
    """Options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/captions_synthetic"), help="folder of everything kept")
    parser.add_argument("--chips", type=int, default=1500, help="chips a class that the models are trained on")
    parser.add_argument("--size", type=int, default=32, help="side of the chips, pixels")
    parser.add_argument("--steps", type=int, default=1600, help="training steps of each model")
    parser.add_argument("--training", type=json.loads, default={"batch": 32}, help="further training options, JSON")
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--guidance-scale", type=float, default=2.0, help="classifier-free guidance")
    parser.add_argument("--sampling-steps", type=int, default=15, help="steps of DPM-Solver++")
    parser.add_argument("--tiles", type=int, default=160, help="tiles a class, values asked for in turn")
    parser.add_argument("--judge-chips", type=int, default=3000, help="chips a class that the judge learns from")
    parser.add_argument("--judge-steps", type=int, default=2000, help="on chips as they are")
    parser.add_argument("--judge-tuning", type=int, default=700, help="further steps, half on decoded chips")
    parser.add_argument("--least", type=float, default=1 / 3, help="what the judge must reach, chance 0, certainty 1")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def may_count(attribute: Attribute, right: float, least: float) -> bool:
    """Whether the judge reads an attribute well enough for tiles to be judged by it."""
    chance = 1 / len(attribute.phrases)
    return (right - chance) / (1 - chance) >= least


def trained_on(options: argparse.Namespace, folder: Path) -> tuple[SceneData, Captions, LatentStore]:
    """Chips, their true captions by way of the captioner that reads files, and their latents."""
    data = load_dataset(
        "synthetic",
        size=options.size,
        chips_per_class=options.chips,
        classes=CLASSES,
        train=0.95,
        val=0.01,
        seed=TRAIN,
        scene_seed=TRAIN,
    )
    place = folder / digest([options.chips, options.size, CODEC, repr(ATTRIBUTES)])[:12]
    place.mkdir(exist_ok=True)
    if not (place / "captions.csv").exists():
        write_captions(data, place / "captions.csv")
    captions = create_captioner("file", path=str(place / "captions.csv")).caption(data)
    # Chips are rendered once, instead of anew at each reading.
    if not (place / "chips" / "index.json").exists():
        prepare(data, place / "chips")
    data = load_prepared(place / "chips")
    if not (place / "codec").exists():
        create_codec("kl", data.bands, **CODEC).fit(data, trainer=QUIET).save(place / "codec")
    codec = load_codec(place / "codec")
    if (place / "latents.zarr").exists():
        return data, captions, LatentStore(place / "latents.zarr", codec)
    return data, captions, encode(codec, data, place / "latents.zarr", views=4, progress=False)


def write_captions(data: SceneData, path: Path) -> None:
    """True sentences of the train chips as CSV."""
    source = data.source
    assert isinstance(source, SyntheticScenes)
    partial = path.with_suffix(".partial")
    with partial.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("filename", "caption"))
        for index in data.train.indices:
            key, facts = source.classes[source.labels[index]].key, source.attributes(int(index))
            values = [attribute.value(facts) for attribute in attributes_of(key)]
            rows.writerow((source.chip_ids[index], caption(key, values)))
    partial.rename(path)


def through(codec: Codec, images: NDArray[np.float32], kept: Path) -> NDArray[np.float32]:
    """Chips (n, B, H, W) after the codec, in sensor units."""
    if not kept.exists():
        parts = [codec.decode(codec.encode(part)) for part in torch.from_numpy(images).split(64)]
        np.save(kept, np.concatenate([to_sensor(part, codec.bands) for part in parts]).astype(np.float32))
    return np.load(kept)


def requests(tiles: int) -> list[tuple[str, tuple[int, ...]]]:
    """Class and values of every tile to draw: so many of each class, its combinations of values in turn."""
    asked = []
    for key in CLASSES:
        values = product(*(range(len(attribute.phrases)) for attribute in attributes_of(key)))
        asked += [(key, chosen) for chosen in islice(cycle(values), tiles)]
    return asked


def drawn(
    data: SceneData,
    latents: LatentStore,
    captions: Captions | None,
    options: argparse.Namespace,
    log: Callable[[str], None],
) -> NDArray[np.float32]:
    """Tiles (n, B, H, W) of a model trained with these captions, one for each request."""
    training = {"steps": options.steps, "max_epochs": None, **options.training}
    method = create_distiller("dpd", preset=options.preset, training=training, seed=options.seed)
    method.attach(data, latents, captions, trainer=QUIET)
    train = next(step for step in method.steps() if step.name == "train")
    kind = "template" if captions is None else "captions"
    made_of = [options.size, options.chips, CODEC, captions.digest if captions else "", plain(method.training)]
    folder = options.out / f"{kind}-{digest([*made_of, options.preset, options.seed])[:12]}"
    if (folder / "model").exists():
        train.load(folder / "model")
    else:
        train.fit(folder / "unfinished")
        train.save(folder / "model")
    log(f"model trained by {kind}: {folder}")
    kept = folder / f"tiles-{options.tiles}-{options.guidance_scale:g}-{options.sampling_steps}.npy"
    if kept.exists():
        return np.load(kept)
    asked = requests(options.tiles)
    told = [TEMPLATE.format(name=key) if captions is None else caption(key, values) for key, values in asked]
    seeds = [derived_seed(options.seed, number) for number in range(len(asked))]
    sampling = SamplingOptions(
        options.sampling_steps, options.guidance_scale, scheduler="dpmsolver++", guidance=GuidanceOptions(scale=0.0)
    )
    found = sample(method.model_, told, seeds, None, sampling, progress=False)
    tiles = np.concatenate([to_sensor(latents.codec.decode(part), data.bands) for part in found.split(64)])
    np.save(kept, tiles.astype(np.float32))
    log(f"{len(tiles)} tiles by {kind}")
    return tiles.astype(np.float32)


def table(
    read: list[bool],
    real: list[float],
    ceiling: list[float],
    asked: list[tuple[str, tuple[int, ...]]],
    template: NDArray[np.int64],
    said: NDArray[np.int64],
) -> str:
    """Agreement of both models' tiles with what was asked, attribute by attribute, as Markdown."""
    lines = [
        "| attribute | of | values | judge on chips | on decoded chips | class prompts | captions | rise |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    rows = []
    for attribute in ATTRIBUTES:
        counted = [n for n, (other, _) in enumerate(QUESTIONS) if other is attribute and read[n]]
        if not counted:
            continue
        without, told = (hits(found, counted, asked) for found in (template, said))
        ceilings = [float(np.mean([values[n] for n in counted])) for values in (real, ceiling)]
        spread = 1.96 * np.sqrt((without.var() + told.var()) / len(told))
        rows.append([*ceilings, without.mean(), told.mean(), told.mean() - without.mean(), spread])
        classes = ", ".join(QUESTIONS[n][1] for n in counted)
        lines.append(row(attribute.title, classes, str(len(attribute.phrases)), rows[-1]))
    # The mean over attributes is as uncertain as the mean of independent rises.
    mean = np.mean(rows, axis=0)
    mean[-1] = np.sqrt(np.square([found[-1] for found in rows]).sum()) / len(rows)
    return "\n".join([*lines, row("mean", "", "", list(mean))])


def hits(found: NDArray[np.int64], questions: list[int], asked: list[tuple[str, tuple[int, ...]]]) -> NDArray[np.bool_]:
    """Of each tile that one of these questions is about, whether it shows what was asked for."""
    right = []
    for question in questions:
        attribute, key = QUESTIONS[question]
        place = attributes_of(key).index(attribute)
        tiles = [(number, values[place]) for number, (of, values) in enumerate(asked) if of == key]
        right += [found[number, question] == wanted for number, wanted in tiles]
    return np.array(right)


def row(title: str, classes: str, values: str, figures: list[float]) -> str:
    """A row of the table: shares in percent, the last one the half-width of the rise's 95 % interval."""
    *shares, spread = (f"{100 * figure:.1f}" for figure in figures)
    return f"| {title} | {classes} | {values} | " + " | ".join(shares) + f" ± {spread} |"


if __name__ == "__main__":
    main()
