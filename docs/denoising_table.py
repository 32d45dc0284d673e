"""Print the loss of a run's denoiser on its val chips by timestep: ``python docs/denoising_table.py runs/NAME ...``."""

import sys
from pathlib import Path

import torch

from rsdistill.captions import class_prompts
from rsdistill.codecs import LatentStore, load_codec
from rsdistill.datasets import load_prepared
from rsdistill.diffusion.model import DiffusionModel
from rsdistill.diffusion.parameterization import training_target

TIMESTEPS = (50, 200, 400, 600, 800, 950)
DRAWS = 4


@torch.no_grad()
def losses(run: Path) -> list[float]:
    """Mean squared error at each timestep, over the val chips and four draws of noise, always the same."""
    stages = {name: next(run.glob(f"*_{name}")) for name in ("prepare", "codec", "encode", "train")}
    classes = load_prepared(stages["prepare"] / "chips").classes
    latents = LatentStore(stages["encode"] / "latents.zarr", load_codec(stages["codec"] / "codec"))
    model = DiffusionModel.load(stages["train"] / "train")
    batch, generator = latents.read(latents.positions("val")), torch.Generator().manual_seed(0)
    text = model.embed(class_prompts(classes))[batch.label]
    found = []
    for timestep in TIMESTEPS:
        errors = []
        for _ in range(DRAWS):
            noise = torch.randn(batch.mean.shape, generator=generator)
            each = torch.full((len(batch.label),), timestep)
            alpha_bar = model.scheduler.alphas_cumprod[each]
            noisy = model.scheduler.add_noise(batch.mean, noise, each)
            target = training_target(batch.mean, noise, alpha_bar, model.prediction)
            errors.append(float((model.unet(noisy, each, text).sample - target).square().mean()))
        found.append(sum(errors) / DRAWS)
    return found


if __name__ == "__main__":
    print("| run | " + " | ".join(f"t = {timestep}" for timestep in TIMESTEPS) + " |")
    print("|---" * (1 + len(TIMESTEPS)) + "|")
    for path in sys.argv[1:]:
        print(f"| {Path(path).name} | " + " | ".join(f"{loss:.3f}" for loss in losses(Path(path))) + " |")
