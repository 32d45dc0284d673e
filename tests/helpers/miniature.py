"""Runs at miniature size: the same stages as a real run, in seconds."""

from __future__ import annotations

from pathlib import Path

TESTS = Path(__file__).parent.parent
CONFIGS = TESTS.parent / "configs"

# What makes any config small; the dataset and its bands stay the config's own.
MINIATURE = {
    "data.size": 16,
    "encode.views": 2,
    "distill.ipc": 2,
    "distill.options.teacher.width": 8,
    "distill.options.teacher.steps": 3,
    "distill.options.training.steps": 3,
    "distill.options.training.batch": 8,
    "distill.options.training.watch.draws": 8,
    "distill.options.sampling.steps": 2,
    "distill.options.prototypes.k": 2,
    "distill.options.candidates": 2,
    "distill.options.refinement.steps": 2,
    "distill.options.refinement.networks.count": 2,
    "distill.options.refinement.networks.steps": 2,
    "distill.options.refinement.networks.size": 8,
    "distill.options.refinement.networks.width": 8,
    "audit.features": "descriptors",
    "evaluation.recipe.steps": 3,
    "evaluation.recipe.full_steps": 3,
    "evaluation.recipe.size": 16,
    "evaluation.seeds": "[0]",
    # Models this small draw noise, of which the audit may think anything.
    "export.allow_blocked": "true",
    "trainer.progress": "false",
}
MINIATURE_KL = {
    "codec.options.patch": 4,
    "codec.options.block_channels": "[16]",
    "codec.options.latent_channels": 4,
    "codec.options.steps": 4,
}


def miniature(out: Path, **others: object) -> list[str]:
    """Command-line options that make a config small; ``__`` in a name stands for a dot."""
    given = {name.replace("__", "."): value for name, value in others.items()}
    # Pretrained codecs have their own shape.
    own = {} if "codec.options.source" in given else MINIATURE_KL
    options = MINIATURE | own | given | {"out": out}
    return [part for name, value in options.items() for part in (f"--{name}", str(value))]


def synthetic(out: Path, **others: object) -> list[str]:
    """The quickstart at miniature size."""
    scenes = {"data__options__chips_per_class": 12, "data__classes": "[forest, river, runway]"}
    return miniature(out, **(scenes | others))
