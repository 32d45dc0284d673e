"""What inflating an RGB autoencoder to 13 bands costs its colours and gains on the other bands.

    python benchmarks/inflated.py --data FOLDER      FOLDER holds EuroSAT with 13 bands

An RGB autoencoder is trained on red, green and blue alone and saved; ``inflated`` extends it to all bands and
is trained twice, with everything free and with the middle frozen. Printed are root mean square errors on held-out
chips in normalised units (-1..1 spans each band's robust range), the share of the start's that is left, and how
far the reconstruction of the colours at the start is from the pretrained one.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch

from rsdistill.codecs.autoencoder import AutoencoderCodec
from rsdistill.codecs.kl import KLCodec
from rsdistill.codecs.pretrained import InflatedCodec
from rsdistill.datasets import load_dataset
from rsdistill.datasets.base import SceneData
from rsdistill.training.trainer import TrainerOptions

COLOURS = ("B04", "B03", "B02")
TRAINER = TrainerOptions(accelerator="cpu", progress=False)


def open_data(root: Path, split: str, bands: tuple[str, ...] | None = None) -> tuple[SceneData, torch.Tensor]:
    """The dataset, 32 px, and the chips of the split to report on."""
    data = load_dataset("eurosat", root=root, train=0.8, val=0.1, size=32, bands=bands)
    return data, torch.from_numpy(getattr(data, split).images())


def errors(codec: AutoencoderCodec, chips: torch.Tensor) -> np.ndarray:
    """Root mean square error of each band (B,) in normalised units."""
    assert codec.normalisation_ is not None
    apart = [codec.normalisation_.forward(images, codec.bands) for images in (chips, codec.reconstruct(chips))]
    return (apart[0] - apart[1]).square().mean((0, 2, 3)).sqrt().numpy()


def distance(codec: AutoencoderCodec, first: torch.Tensor, second: torch.Tensor) -> float:
    """Largest difference of two stacks of chips in normalised units."""
    assert codec.normalisation_ is not None
    apart = [codec.normalisation_.forward(images, codec.bands) for images in (first, second)]
    return float((apart[0] - apart[1]).abs().max())


def main() -> None:
    """Train, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of EuroSAT")
    parser.add_argument("--split", choices=("val", "test"), default="test", help="chips to report on")
    parser.add_argument("--rgb-steps", type=int, default=400, help="steps of the RGB autoencoder")
    parser.add_argument("--steps", type=int, default=600, help="steps of each inflated codec")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        data, chips = open_data(options.data, options.split, COLOURS)
        rgb = KLCodec(
            data.bands, latent_channels=8, block_channels=(16, 32), steps=options.rgb_steps, batch=8, seed=options.seed
        )
        rgb.fit(data, trainer=TRAINER).save(folder)
        pretrained = errors(rgb, chips).mean()
        print(f"RGB autoencoder alone: RGB {pretrained:.4f}")

        everything, all_chips = open_data(options.data, options.split)
        colours = [everything.bands.index(name) for name in COLOURS]
        others = [b for b in range(len(everything.bands)) if b not in colours]
        print("| training | steps | RGB | new bands | RGB, % of start | new bands, % of start |")
        print("|---|---|---|---|---|---|")
        start: np.ndarray | None = None
        for label, freeze, steps, lr in (
            ("none: the start", "none", 1, 1e-12),
            ("everything", "none", options.steps, 4e-3),
            ("first and last convolution", "middle", options.steps, 1e-2),
        ):
            codec = InflatedCodec(
                everything.bands, folder, freeze=freeze, steps=steps, batch=8, lr=lr, seed=options.seed
            ).fit(everything, trainer=TRAINER)
            found = errors(codec, all_chips)
            row = np.array([found[colours].mean(), found[others].mean()])
            if start is None:
                start = row
                same = distance(rgb, codec.reconstruct(all_chips)[:, colours], rgb.reconstruct(chips))
            share = 100 * row / start
            print(f"| {label} | {steps} | {row[0]:.4f} | {row[1]:.4f} | {share[0]:.1f} | {share[1]:.1f} |", flush=True)
        print(f"largest difference of the colours at the start: {same:.1e} in normalised units")


if __name__ == "__main__":
    main()
