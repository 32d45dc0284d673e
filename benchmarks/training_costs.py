"""What the options of the denoiser's training cost: CPU seconds a step and memory, one process an option.

Run: ``python benchmarks/training_costs.py [--preset tiny] [--steps 12]``. It needs no data and no network. CPU seconds
do not depend on what else the machine does, but on the machine; on a GPU the shares differ.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

VARIANTS = {
    "default": {},
    "accumulate: 4": {"accumulate": 4},
    "gradient_checkpointing: true": {"gradient_checkpointing": True},
    "both": {"accumulate": 4, "gradient_checkpointing": True},
    "consistency.weight: 0.05": {"consistency": {"weight": 0.05}},
    "watch.validation: every step": {"watch": {"validation": 1}},
    "watch.samples: every step": {"watch": {"validation": 0, "samples": 1}},
}


def megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(preset: str, steps: int, options: dict) -> dict[str, float]:
    """Train on rendered scenes in this process."""
    import torch

    from rsdistill.captions import class_prompts
    from rsdistill.codecs import create_codec, encode
    from rsdistill.datasets import load_dataset
    from rsdistill.diffusion.denoising import DenoisingOptions, train_denoiser
    from rsdistill.diffusion.model import DiffusionModel
    from rsdistill.diffusion.teacher import LatentTeacher
    from rsdistill.training.trainer import TrainerOptions
    from rsdistill.utils.options import parse_options

    torch.set_num_threads(1)
    quiet = TrainerOptions(accelerator="cpu", progress=False)
    data = load_dataset("synthetic", size=32, chips_per_class=20)
    codec = create_codec("kl", data.bands, latent_channels=16, patch=4, block_channels=(128,), steps=1, batch=8)
    codec.fit(data, trainer=quiet)
    teacher = LatentTeacher(16, len(data.classes), 128, 3).eval().requires_grad_(False)
    prompts = class_prompts(data.classes)
    with tempfile.TemporaryDirectory() as folder:
        latents = encode(codec, data, Path(folder) / "latents.zarr", progress=False)
        spent = []
        before = megabytes()
        for count in (2, 2 + steps):
            model = DiffusionModel.from_scratch(preset, codec, prompts, 32, "v_prediction", 0)
            chosen = parse_options(DenoisingOptions, {"steps": count, "watch": {"validation": 0}} | options)
            started = time.process_time()
            train_denoiser(model, latents, prompts, chosen, teacher, folder=Path(folder) / str(count), trainer=quiet)
            spent.append(time.process_time() - started)
    # What does not grow with the steps cancels out.
    return {"seconds": (spent[1] - spent[0]) / steps, "megabytes": megabytes() - before}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one is not None:
        print(json.dumps(measure(given.preset, given.steps, VARIANTS[given.one])))
        return
    print("| option | CPU seconds a step | of default | memory, MB |\n|---|---|---|---|")
    first = None
    for name in VARIANTS:
        command = [sys.executable, __file__, "--preset", given.preset, "--steps", str(given.steps), "--one", name]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        found = json.loads(done.stdout.splitlines()[-1])
        first = first or found["seconds"]
        share = found["seconds"] / first
        print(f"| `{name}` | {found['seconds']:.2f} | {share:.2f} | {found['megabytes']:.0f} |", flush=True)


if __name__ == "__main__":
    main()
