"""How well codecs keep spectra, beside linear transforms with the same number of latent values.

    python benchmarks/codecs.py --data FOLDER                          kl, spectral and inflated
    python benchmarks/codecs.py --data FOLDER --codec inflated --pretrained VAE
    python benchmarks/codecs.py --data FOLDER --codec spectral --channels 16 32 --json codecs.json

FOLDER holds EuroSAT with 13 bands. First table: reconstruction of held-out chips. PSNR is that of reflectance with
peak 1, of each band over all pixels; the mean is that of the bands' decibels. SAM is in degrees. Block-KLT is block
PCA, in the codecs' normalised units and in reflectance. Per-pixel PCA keeps the number of values by averaging pixels
first; of the ways to do so the best on train is shown. Decoded values are rounded and cut to the sensor's range, for
all alike.

Without ``--pretrained``, ``inflated`` starts from a ``kl`` that is fitted on red, green and blue of the train chips
alone, with as many latent channels.

Second table, for ``spectral``: encode B02, B03, B04 and B08 alone and decode all bands. Root mean square error in
reflectance of the bands that it did not see, beside a linear regression on the four bands of the same pixel.
All linear fits are scikit-learn's on the train chips.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.linear_model import LinearRegression

from rsdistill.codecs import Codec, create_codec
from rsdistill.codecs.spectral import SpectralCodec
from rsdistill.datasets import load_dataset
from rsdistill.datasets.base import SceneData
from rsdistill.evaluation import ergas, index_error, psnr_per_band, spectral_angle
from rsdistill.imaging.normalisation import RangeNormalisation, to_sensor
from rsdistill.training.trainer import TrainerOptions
from rsdistill.utils.io import write_json
from rsdistill.utils.provenance import library_versions

Chips = NDArray[Any]
SEEN = ("B02", "B03", "B04", "B08")
PATCH = 8
TRAINER = TrainerOptions(accelerator="cpu", progress=False)
OPTIONS: dict[str, dict[str, Any]] = {
    "kl": {"patch": PATCH, "block_channels": [128], "steps": 300, "lr": 5e-4},
    "spectral": {"patch": PATCH, "width": 128, "steps": 100, "lr": 5e-5, "loss": {"error": "rms"}},
    "inflated": {"steps": 300, "lr": 5e-4},
}
COLOURS = ("B04", "B03", "B02")


@dataclass(frozen=True)
class Row:
    """A way to code chips, and its reconstructions of the held-out ones in the sensor's own type."""

    label: str
    values: int
    estimate: Chips


def main() -> None:
    """Fit, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of EuroSAT")
    parser.add_argument("--codec", nargs="+", choices=tuple(OPTIONS), default=list(OPTIONS))
    parser.add_argument("--channels", nargs="+", type=int, default=[16], help="latent channels")
    parser.add_argument("--pretrained", help="RGB autoencoder that inflated starts from, whatever --channels")
    parser.add_argument("--steps", type=int, help="steps of every fit, where not the codec's own number")
    parser.add_argument("--split", choices=("val", "test"), default="test", help="chips to report on")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    options = parser.parse_args()

    data = open_data(options)
    truth: Chips = getattr(data, options.split).images()
    print(f"{len(data.train)} train, {len(truth)} {options.split} chips, seed {options.seed}\n", flush=True)
    codecs = fit_codecs(data, options)
    rows = [Row(label, _values(codec, truth), _coded(codec, truth)) for label, codec in codecs.items()]
    for values in sorted({row.values for row in rows}):
        rows += linear_rows(data, truth, values, options.seed)
    figures = {"reconstruction": {row.label: reconstruction(row, truth, data) for row in rows}}
    print_reconstruction(figures["reconstruction"], data)
    spectral = {label: codec for label, codec in codecs.items() if isinstance(codec, SpectralCodec)}
    if spectral:
        figures["unseen bands"] = unseen_bands(spectral, data, truth)
        print_unseen(figures["unseen bands"])
    if options.json is not None:
        settings = {name: str(value) for name, value in vars(options).items() if name not in ("data", "json")}
        write_json(options.json, {"options": settings, "versions": library_versions(), **figures})


def fit_codecs(data: SceneData, options: argparse.Namespace) -> dict[str, Codec]:
    """The codecs asked for, fitted on train, by label."""
    fitted: dict[str, Codec] = {}
    for name in options.codec:
        given = name == "inflated" and options.pretrained is not None
        for channels in [None] if given else options.channels:
            chosen = {**OPTIONS[name], "seed": options.seed}
            if options.steps is not None:
                chosen["steps"] = options.steps
            label = f"`{name}`" if channels is None else f"`{name}`, {channels} channels"
            start = time.perf_counter()
            with tempfile.TemporaryDirectory() as folder:
                if channels is None:
                    chosen["pretrained"] = options.pretrained
                elif name == "inflated":
                    chosen |= {"pretrained": build_rgb(options, channels, folder), "patch": PATCH}
                else:
                    chosen["latent_channels"] = channels
                fitted[label] = create_codec(name, data.bands, **chosen).fit(data, trainer=TRAINER)
            told = {option: value for option, value in chosen.items() if option != "pretrained"}
            print(f"{label}: fitted in {(time.perf_counter() - start) / 60:.1f} minutes, {told}\n", flush=True)
    return fitted


def build_rgb(options: argparse.Namespace, channels: int, folder: str) -> str:
    """Folder of a codec that knows red, green and blue alone."""
    data = open_data(options, COLOURS)
    chosen = {**OPTIONS["kl"], "latent_channels": channels, "seed": options.seed}
    if options.steps is not None:
        chosen["steps"] = options.steps
    codec = create_codec("kl", data.bands, **chosen)
    return str(codec.fit(data, trainer=TRAINER).save(folder))


def open_data(options: argparse.Namespace, bands: Sequence[str] | None = None) -> SceneData:
    """The dataset, half of each class held out."""
    return load_dataset("eurosat", root=options.data, size=64, train=0.5, val=0.1, seed=options.seed, bands=bands)


def linear_rows(data: SceneData, truth: Chips, values: int, seed: int) -> list[Row]:
    """Linear transforms with this many latent values a chip; those that cannot have as many are left out."""
    train = data.train.images()
    ranges = RangeNormalisation.fit(train, data.bands)

    def normalised(code: Callable[[torch.Tensor], torch.Tensor], chips: Chips) -> Chips:
        images = ranges.inverse(code(ranges.forward(torch.from_numpy(chips), data.bands)))
        return to_sensor(images, data.bands)

    rows = []
    components = values * PATCH**2 // truth[0, 0].size
    if 0 < components <= len(data.bands) * PATCH**2:
        inputs = torch.from_numpy(train.astype(np.float32))
        block = block_pca(ranges.forward(inputs, data.bands), components, seed)
        rows.append(Row(f"block-KLT, {components} components", values, normalised(block, truth)))
        raw = block_pca(inputs, components, seed)
        estimate = to_sensor(raw(torch.from_numpy(truth.astype(np.float32))), data.bands)
        rows.append(Row(f"block-KLT, {components} components, reflectance", values, estimate))
    tried = []
    for side in (1, 2, 4, 8, 16):
        kept = values * side**2 // truth[0, 0].size
        if 0 < kept <= len(data.bands):
            code = pixel_pca(ranges.forward(torch.from_numpy(train), data.bands), kept, side, seed)
            loss = np.mean((normalised(code, train).astype(np.float64) - train) ** 2 / _spans(ranges) ** 2)
            tried.append((float(loss), f"per-pixel PCA, {kept} of {side}x{side} pixels", code))
    if tried:
        _, label, code = min(tried, key=lambda way: way[0])
        rows.append(Row(label, values, normalised(code, truth)))
    return rows


def block_pca(train: torch.Tensor, components: int, seed: int) -> Callable[[torch.Tensor], torch.Tensor]:
    """Block PCA fitted on chips (N, B, H, W): chips to their approximations."""

    def blocks(images: torch.Tensor) -> torch.Tensor:
        return F.pixel_unshuffle(images, PATCH).permute(0, 2, 3, 1)

    found = PCA(components, random_state=seed).fit(blocks(train).flatten(0, 2).numpy())

    def code(images: torch.Tensor) -> torch.Tensor:
        rows = blocks(images)
        rebuilt = found.inverse_transform(found.transform(rows.flatten(0, 2).numpy()))
        return F.pixel_shuffle(torch.from_numpy(rebuilt).float().reshape(rows.shape).permute(0, 3, 1, 2), PATCH)

    return code


def pixel_pca(train: torch.Tensor, components: int, side: int, seed: int) -> Callable[[torch.Tensor], torch.Tensor]:
    """PCA of spectra, of pixels averaged over squares and interpolated back."""

    def spectra(images: torch.Tensor) -> torch.Tensor:
        return F.avg_pool2d(images, side).permute(0, 2, 3, 1)

    found = PCA(components, random_state=seed).fit(spectra(train).flatten(0, 2).numpy())

    def code(images: torch.Tensor) -> torch.Tensor:
        rows = spectra(images)
        rebuilt = found.inverse_transform(found.transform(rows.flatten(0, 2).numpy()))
        small = torch.from_numpy(rebuilt).float().reshape(rows.shape).permute(0, 3, 1, 2)
        return small if side == 1 else F.interpolate(small, scale_factor=side, mode="bicubic")

    return code


def reconstruction(row: Row, truth: Chips, data: SceneData) -> dict[str, Any]:
    """All figures of one row."""
    psnr = psnr_per_band(truth, row.estimate, data.bands)
    return {
        "values": row.values,
        "psnr": float(psnr.mean()),
        "sam": spectral_angle(truth, row.estimate, data.bands),
        "ergas": ergas(truth, row.estimate, data.bands),
        "ndvi": index_error("ndvi", truth, row.estimate, data.bands),
        "bands": dict(zip(data.bands.names, psnr.tolist(), strict=True)),
    }


def unseen_bands(codecs: dict[str, SpectralCodec], data: SceneData, truth: Chips) -> dict[str, Any]:
    """Root mean square errors in reflectance of the bands that were not encoded."""
    bands = data.bands
    seen = bands.indices(SEEN)
    unseen = [place for place in range(len(bands)) if place not in seen]

    def errors(estimate: Chips, values: int | None) -> dict[str, Any]:
        squares = np.square(estimate.astype(np.float64) - truth[:, unseen]).mean((0, 2, 3))
        each = np.sqrt(squares) * bands.scale
        names = [bands.names[place] for place in unseen]
        return {"values": values, "mean": float(each.mean()), "bands": dict(zip(names, each.tolist(), strict=True))}

    def pixels(images: Chips) -> NDArray[np.float64]:
        return np.moveaxis(images, 1, -1).reshape(-1, len(bands)).astype(np.float64)

    train = pixels(data.train.images())
    found = LinearRegression().fit(train[:, seen], train[:, unseen])
    predicted = found.predict(pixels(truth)[:, seen]).reshape(len(truth), *truth.shape[2:], -1)
    figures = {"linear regression, per pixel": errors(np.moveaxis(predicted, -1, 1), None)}
    for label, codec in codecs.items():
        four = codec.for_bands(bands.select(SEEN))
        decoded = [codec.decode(four.encode(part)) for part in torch.from_numpy(truth[:, seen]).split(64)]
        figures[label] = errors(torch.cat(decoded)[:, unseen].numpy(), _values(codec, truth))
    return figures


def print_reconstruction(figures: dict[str, Any], data: SceneData) -> None:
    """The first table."""
    print(f"| codec | values | PSNR, dB | SAM, ° | ERGAS | NDVI error | {' | '.join(data.bands.names)} |")
    print("|---" * (6 + len(data.bands)) + "|")
    for label, found in figures.items():
        each = " | ".join(f"{value:.1f}" for value in found["bands"].values())
        print(
            f"| {label} | {found['values']} | {found['psnr']:.2f} | {found['sam']:.2f} | {found['ergas']:.1f} | "
            f"{found['ndvi']:.4f} | {each} |"
        )
    print(flush=True)


def print_unseen(figures: dict[str, Any]) -> None:
    """The second table."""
    names = list(next(iter(figures.values()))["bands"])
    print(f"| from {', '.join(SEEN)} | values | mean RMSE | {' | '.join(names)} |")
    print("|---" * (3 + len(names)) + "|")
    for label, found in figures.items():
        each = " | ".join(f"{value:.4f}" for value in found["bands"].values())
        print(f"| {label} | {found['values'] or '–'} | {found['mean']:.5f} | {each} |")


def _coded(codec: Codec, chips: Chips) -> Chips:
    parts = [to_sensor(codec.reconstruct(part), codec.bands) for part in torch.from_numpy(chips).split(64)]
    return np.concatenate(parts)


def _values(codec: Codec, chips: Chips) -> int:
    """Latent values of a chip."""
    return codec.latent_channels * (chips.shape[-2] // codec.factor) * (chips.shape[-1] // codec.factor)


def _spans(ranges: RangeNormalisation) -> NDArray[np.float64]:
    return (np.asarray(ranges.high) - np.asarray(ranges.low))[None, :, None, None]


if __name__ == "__main__":
    main()
