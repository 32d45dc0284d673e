"""The plan of a run, for ``--dry-run``: stages, what is cached, sizes, estimated memory."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rsdistill.codecs import create_codec
from rsdistill.datasets import SceneData
from rsdistill.distillers.base import check_class_sizes
from rsdistill.pipeline.stages import Run

_GB = 1e9
# What the libraries alone take, and what a small model with its gradients, optimiser and activations
# adds while it trains; measured on Linux with the quickstart.
_LIBRARIES, _TRAINING = 1.0e9, 0.6e9
_IN_MEMORY = 2e9


@dataclass(frozen=True)
class _Sizes:
    """Estimated bytes that a stage leaves on disk and holds in memory at its peak."""

    disk: float
    memory: float


def plan_table(run: Run, until: str | None = None) -> str:
    """What a run would do, as plain text.

    Args:
        run: The run.
        until: Last stage; None for all.

    Returns:
        A line a stage: its state, and estimates of its size on disk and of its memory.
    """
    states = run.pipeline.states()
    data = run.data if states[0].cached else run.load_data()
    check_class_sizes(data, run.config.distill.ipc)
    sizes = _estimate(run, data)
    counts = f"{len(data.train)} train, {len(data.val)} val, {len(data.test)} test chips, {len(data.classes)} classes"
    lines = [f"{run.config.name} in {run.config.folder}: {counts}, {len(data.bands)} bands", ""]
    lines.append(f"{'stage':15} {'state':22} {'disk, MB':>9} {'memory, GB':>11}")
    for state in states:
        what = f"complete ({state.seconds:.0f} s)" if state.cached else "to do"
        size = sizes.get(state.name, _Sizes(0.0, _LIBRARIES))
        memory = size.memory + run.distiller.pretrained_memory(state.name)
        lines.append(f"{state.folder.name:15} {what:22} {size.disk / 1e6:9.1f} {memory / _GB:11.1f}")
        if state.name == until:
            break
    return "\n".join(lines)


def _estimate(run: Run, data: SceneData) -> dict[str, _Sizes]:
    config, bands, side = run.config, data.bands, run.config.data.size
    chip = len(bands) * side**2 * np.dtype(bands.dtype).itemsize
    chips = (len(data.train) + len(data.val) + len(data.test)) * chip
    codec = create_codec(config.codec.name, bands, **config.codec.options)
    latent = 2 * 4 * codec.latent_channels * (side // codec.factor) ** 2
    stored = latent * (len(data.train) * config.encode.views + len(data.val))
    tiles = config.distill.ipc * len(data.classes) * chip
    students = (len(data.train) + len(data.test)) * len(bands) * 4 * (run.recipe.size or side) ** 2
    held = min(stored, _IN_MEMORY)
    return {
        "prepare": _Sizes(chips, _LIBRARIES + 512 * chip),
        "captions": _Sizes(200 * len(data.train), _LIBRARIES + 2 * chip),
        "codec": _Sizes(20e6, _LIBRARIES + _TRAINING),
        "encode": _Sizes(stored, _LIBRARIES + _TRAINING),
        "teacher": _Sizes(5e6, _LIBRARIES + _TRAINING + held),
        "train": _Sizes(60e6, _LIBRARIES + _TRAINING + held),
        "observers": _Sizes(10e6, _LIBRARIES + _TRAINING),
        "prototypes": _Sizes(tiles, _LIBRARIES + stored / max(1, len(data.classes))),
        "distill": _Sizes(tiles * len(config.distill.seeds), _LIBRARIES + 4 * tiles),
        "screen": _Sizes(2 * tiles * len(config.distill.seeds), _LIBRARIES + _TRAINING + 4 * tiles),
        "audit": _Sizes(tiles * len(config.distill.seeds), _LIBRARIES + _TRAINING + 4 * tiles),
        "evaluate": _Sizes(1e5, _LIBRARIES + 3 * students),
        "export": _Sizes(2 * tiles, _LIBRARIES),
        "report": _Sizes(2e6, _LIBRARIES),
    }
