"""What each part of a method brings and costs, and what it leaks.

    python benchmarks/ablation.py benchmarks/ablation_ucmerced.yaml --root FOLDER

A study is a YAML file: a config, the runs to train (options laid over the config), and the rows of the table
(options of the method laid over a run's). Runs are trained up to their last learned stage; every row then draws
its sets with them, and all are judged by one protocol. Everything is kept in the study's folder: a second call
continues where the first one was stopped.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from rsdistill.audit.features import create_features
from rsdistill.datasets import SceneData, SceneView
from rsdistill.distilled import DistilledSet
from rsdistill.distillers.base import DISTILLERS, Distiller
from rsdistill.evaluation import Recipe, coverage, evaluate
from rsdistill.imaging.normalisation import StandardNormalisation
from rsdistill.imaging.pixels import shrink
from rsdistill.pipeline.config import load_config, merge_overrides, parse_config
from rsdistill.pipeline.run import Run
from rsdistill.report import contact_sheet
from rsdistill.utils.io import complete_folder, write_json
from rsdistill.utils.options import plain
from rsdistill.utils.provenance import digest


def main() -> None:
    """Carry out a study and print its table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("study", type=Path, help="YAML file of the study")
    parser.add_argument("--root", help="folder of the dataset")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="options of the config, for all runs")
    parser.add_argument("--out", type=Path, default=Path("runs"), help="folder of all runs")
    parser.add_argument("--rows", nargs="*", help="names of the rows to make; all unless given")
    parser.add_argument("--students", nargs="*", help="students to judge with; all unless given")
    options = parser.parse_args()
    study = yaml.safe_load(options.study.read_text(encoding="utf-8"))
    for kind, asked, known in (
        ("row", options.rows, [row["name"] for row in study["rows"]]),
        ("student", options.students, list(study["students"])),
    ):
        if unknown := [name for name in asked or () if name not in known]:
            parser.error(f"{kind} {unknown[0]!r} is not in {options.study}; there are: {', '.join(known)}")
    wanted = options.students or study["students"]
    study["students"] = {name: recipe for name, recipe in study["students"].items() if name in wanted}
    folder = options.out / study["name"]
    runs = {name: _trained(study, name, over or {}, options) for name, over in study["runs"].items()}
    rows = [row for row in study["rows"] if not options.rows or row["name"] in options.rows]
    found = [_judged(row, runs[row.get("run", next(iter(runs)))], study, folder) for row in rows]
    full = _full(next(iter(runs.values())), study, folder) if study.get("full", True) and not options.rows else []
    write_json(folder / f"table-{digest([rows, study['students']])[:8]}.json", [*found, *full])
    print(_table([*found, *full], study["students"]))


def _trained(study: dict[str, Any], name: str, over: dict[str, Any], options: argparse.Namespace) -> Run:
    """A run, carried out up to its last learned stage."""
    config = load_config(study["config"])
    given = {**study.get("options", {}), **over, "name": f"{study['name']}/{name}", "out": str(options.out)}
    if options.root:
        given["data.root"] = options.root
    given |= dict(pair.split("=", 1) for pair in options.set)
    words = [word for key, value in given.items() if key != "name" for word in (f"--{key}", json.dumps(value))]
    values = merge_overrides(plain(config), words)
    config = replace(parse_config(values), name=given["name"])
    run = Run(config)
    run.pipeline.run(run.setup.distiller.steps()[-1].name)
    return run


def _method(row: dict[str, Any], run: Run, seeds: list[int], folder: Path) -> tuple[Distiller, float]:
    """The method of a row with what the run and earlier rows learned; seconds that drawing took."""
    name, options = row.get("method", run.config.distill.method), row.get("options", {})
    if name == run.config.distill.method:
        words = [word for key, value in options.items() for word in (f"--{key}", json.dumps(value))]
        options = merge_overrides(dict(run.config.distill.options), words)
    method: Distiller = DISTILLERS.get(name).factory(**DISTILLERS.parse(name, options, row["name"]))
    of = {stage.name: stage for stage in run.pipeline.stages}
    latents = of["encode"].latents if "encode" in of else None
    captions = of["captions"].captions if "captions" in of else None
    method.attach(run.data, latents, captions, trainer=run.setup.trainer, work=folder / "work")
    return method, _learned(method, run, seeds, folder)


def _learned(method: Distiller, run: Run, seeds: list[int], folder: Path) -> float:
    """Load or learn each step: rows whose steps agree share them, with each other and with the run."""
    ipc, once = run.config.distill.ipc, {step.name for step in method.steps()}
    theirs = _keys(run, run.setup.distiller, seeds)
    seconds = 0.0
    for step in method.steps(ipc, seeds):
        key = _keys(run, method, seeds)[step.name]
        if step.name in once and theirs.get(step.name) == key:
            step.load(run.folder(step.name) / step.name)
            continue
        place = folder / "learned" / f"{step.name}-{key}"
        clock = place.with_suffix(".seconds.json")
        if not place.exists():
            started = time.monotonic()
            step.fit(place.with_suffix(".work"))
            with complete_folder(place) as partial:
                step.save(partial)
            write_json(clock, time.monotonic() - started)
        step.load(place)
        if step.name not in once:
            seconds += float(json.loads(clock.read_text()))
    return seconds


def _keys(run: Run, method: Distiller, seeds: list[int]) -> dict[str, str]:
    """What each step of a method depends on, as a key."""
    keys: dict[str, str] = {}
    for step in method.steps(run.config.distill.ipc, seeds):
        needs = [keys[name] for name in step.needs if name in keys]
        keys[step.name] = digest([run.config.name, step.name, plain(step.options), needs])[:12]
    return keys


def _judged(row: dict[str, Any], run: Run, study: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Sets of a row, its accuracies, leakage and coverage."""
    ipc = run.config.distill.ipc
    method, drawing = _method(row, run, list(study["seeds"]), folder)
    key = digest([plain(row), study["runs"], plain(run.config.distill), ipc])[:12]
    sets, seconds = [], []
    for seed in study["seeds"]:
        path = folder / "sets" / f"{row['name'].replace(' ', '_')}-{key}-{seed}.nc"
        clock = path.with_suffix(".seconds.json")
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            started = time.monotonic()
            tiles = method.distill(ipc, seed)
            write_json(clock, drawing / len(study["seeds"]) + time.monotonic() - started)
            tiles.save(path)
        sets.append(DistilledSet.load(path))
        seconds.append(json.loads(clock.read_text()))
    result: dict[str, Any] = {"name": row["name"], "seconds": float(np.mean(seconds)), "students": {}}
    for student, recipe in study["students"].items():
        report = evaluate(
            {row["name"]: sets}, run.data, Recipe.of(recipe), study["training_seeds"], False, folder / "students"
        )
        for judged in report.rows:
            result["students"][f"{student} {judged.label_type}"] = {
                "oa": judged.oa,
                "std": judged.oa_std,
                "n": judged.n,
            }
            result |= {"null": judged.held_out_null, "copied": judged.copy_rate, "bytes": judged.bytes}
            result["null_interval"] = [judged.held_out_low, judged.held_out_high]
    result["coverage"] = _coverage(sets, run.data)
    if sets[0].is_synthetic:
        _picture(sets[0], run.data, folder / "sheets" / f"{row['name'].replace(' ', '_')}-{key}.png")
    print(json.dumps(result), flush=True)
    return result


def _coverage(sets: list[DistilledSet], data: SceneData) -> float:
    """Mean over sets of how near each test chip has a tile of its class, in the audit's features."""
    chips = shrink(data.train.images(), data.bands, None)
    features = create_features("auto", data, StandardNormalisation.of(chips[:512]))

    def seen(view: SceneView | DistilledSet) -> np.ndarray[Any, Any]:
        images = view.image if isinstance(view, DistilledSet) else view.images()
        parts = np.array_split(images, max(1, len(images) // 256))
        return np.concatenate([features(shrink(part, data.bands, None)).numpy() for part in parts])

    real = seen(data.test)
    return float(np.mean([coverage(real, data.test.labels, seen(tiles), tiles.label) for tiles in sets]))


def _picture(tiles: DistilledSet, data: SceneData, path: Path) -> None:
    """A sheet of all tiles of a set, without the real chips."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        contact_sheet(data, tiles, columns=10, show_real=False).savefig(path, dpi=100)


def _full(run: Run, study: dict[str, Any], folder: Path) -> list[dict[str, Any]]:
    """The ceiling: all real train chips."""
    result: dict[str, Any] = {"name": "all real chips", "students": {}}
    tiles = DISTILLERS.get("random").factory().attach(run.data, None).distill(1, 0)
    for student, recipe in study["students"].items():
        seeds = study["training_seeds"][:1]
        report = evaluate({"random": [tiles]}, run.data, Recipe.of(recipe), seeds, True, folder / "students")
        row = report.rows[-1]
        result["students"][f"{student} hard"] = {"oa": row.oa, "std": row.oa_std, "n": row.n}
    return [result]


def _table(rows: list[dict[str, Any]], students: dict[str, Any]) -> str:
    """The rows as Markdown."""
    tracks = [f"{student} {track}" for student in students for track in ("hard", "soft")]
    tracks = [track for track in tracks if any(track in row["students"] for row in rows)]
    heads = ["row", *(f"{track}, OA %" for track in tracks), "train neighbour, % (95 %)", "copies, %", "coverage", "s"]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for row in rows:
        cells = [row["name"]]
        for track in tracks:
            found = row["students"].get(track)
            spread = "" if found is None or found["std"] is None else f" ± {100 * found['std']:.1f}"
            cells.append("–" if found is None else f"{100 * found['oa']:.1f}{spread}")
        if row.get("null") is None:
            cells += ["–"] * 4
        else:
            low, high = row["null_interval"]
            cells.append(f"{100 * row['null']:.0f} ({100 * low:.0f} to {100 * high:.0f})")
            cells += [f"{100 * row['copied']:.0f}", f"{row['coverage']:.3f}", f"{row['seconds']:.0f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
