"""The smallest dataset, codec, latents and fitted DPD that tests of the method share, made once a session."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session")
def quiet():
    """Trainer options for tests: the CPU, without progress bars."""
    from rsdistill.training.trainer import TrainerOptions

    return TrainerOptions(accelerator="cpu", progress=False)


@pytest.fixture(scope="session")
def tiny_data():
    """Three classes of 12 rendered chips of 16 px in blue, green, red and near infrared."""
    from rsdistill.datasets import load_dataset

    return load_dataset("synthetic", size=16, chips_per_class=12, classes=["forest", "beach", "solar_farm"])


@pytest.fixture(scope="session")
def tiny_codec(tiny_data, quiet):
    """A KL codec with a factor of 2, fitted for a few steps."""
    from rsdistill.codecs import create_codec

    codec = create_codec("kl", tiny_data.bands, latent_channels=4, block_channels=(8, 16), steps=40, batch=8)
    return codec.fit(tiny_data, trainer=quiet)


@pytest.fixture(scope="session")
def tiny_latents(tiny_codec, tiny_data, tmp_path_factory):
    """Latents (4, 8, 8) of the tiny dataset, in all 8 views."""
    from rsdistill.codecs import encode

    return encode(tiny_codec, tiny_data, tmp_path_factory.mktemp("latents") / "store.zarr", progress=False)


@pytest.fixture(scope="session")
def tiny_dpd(tiny_data, tiny_latents, quiet):
    """DPD fitted for a few steps; tests must not change it."""
    from rsdistill.distillers import create_distiller

    method = create_distiller(
        "dpd",
        teacher={"width": 16, "blocks": 1, "steps": 20},
        training={"steps": 6, "batch": 8},
        sampling={"steps": 3},
        candidates=2,
    )
    return method.fit(tiny_data, tiny_latents, trainer=quiet)


def table_of(method, ipc):
    """The prototypes that a fitted DPD takes for so many images per class."""
    step = next(step for step in method.steps(ipc) if step.name == "prototypes")
    step.fit(None)
    return method.table_[1]
