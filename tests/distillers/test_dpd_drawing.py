"""Drawing ahead: batch by batch into a folder, resumable, and the same tiles whatever the batch."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.method_fixtures import table_of

from rsdistill.diffusion import sampling as drawing
from rsdistill.diffusion.sampling import SamplingOptions
from rsdistill.distillers import create_distiller
from rsdistill.errors import ArtifactError
from rsdistill.imaging.normalisation import to_sensor

IPC = 2


@pytest.fixture
def method(tiny_dpd, tiny_data, tiny_latents, quiet):
    """The fitted method with sampling options of its own."""

    def build(batch, trainer=None):
        made = create_distiller("dpd", sampling={"steps": 3, "batch": batch}, candidates=2)
        made.attach(tiny_data, tiny_latents, trainer=trainer or quiet)
        made.teacher_, made.model_ = tiny_dpd.teacher_, tiny_dpd.model_
        return made

    return build


def drawing_step(method, *seeds):
    """The step that draws the candidates of sets with these seeds."""
    return method.steps(IPC, seeds)[-1]


@pytest.mark.parametrize("batch", [5, 64])
def test_what_is_drawn_ahead_is_what_would_be_drawn(method, quiet, tmp_path, batch):
    wanted = method(batch).distill(IPC, seed=1)
    ahead = method(batch)
    drawing_step(ahead, 1).fit(tmp_path)
    assert len(list((tmp_path / "seed_1").iterdir())) == -(-12 // batch)
    made = ahead.distill(IPC, seed=1)
    assert made == wanted
    assert ahead.distill(IPC, seed=2) != wanted


def test_a_killed_drawing_draws_only_what_is_left(method, quiet, tmp_path, monkeypatch):
    wanted, sizes, draw = method(5).distill(IPC, seed=1), [], drawing.draw

    def dies(model, request, *args, **kwargs):
        if len(sizes) == 2:
            raise RuntimeError("killed")
        sizes.append(len(request.prompts))
        return draw(model, request, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(drawing, "draw", dies)
        with pytest.raises(RuntimeError, match="killed"):
            drawing_step(method(5), 1).fit(tmp_path)
    assert sizes == [5, 5]
    with monkeypatch.context() as patch:
        left = []
        patch.setattr(drawing, "draw", lambda m, request, *a, **k: left.append(1) or draw(m, request, *a, **k))
        again = method(5)
        drawing_step(again, 1).fit(tmp_path)
        assert len(left) == 1
    assert again.distill(IPC, seed=1) == wanted


def test_precision_of_training_does_not_reach_the_tiles(method, quiet, tmp_path):
    wanted, ahead = method(64).distill(IPC), method(64, replace(quiet, precision="bf16-mixed"))
    drawing_step(ahead, 0).fit(tmp_path)
    assert ahead.distill(IPC) == wanted


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_bytes(b"half")])
def test_missing_or_damaged_batches_are_named(method, quiet, tmp_path, damage):
    ahead = method(5)
    drawing_step(ahead, 0).fit(tmp_path)
    damage(sorted((tmp_path / "seed_0").iterdir())[1])
    with pytest.raises(ArtifactError, match="holds not all that was to be drawn.*delete it"):
        ahead.distill(IPC)


def test_tiles_are_the_same_for_batches_of_1_7_and_64(tiny_dpd):
    """65 candidates, guided and scattered by a stochastic scheduler, each with a generator of its own."""
    table, slots = table_of(tiny_dpd, IPC), np.arange(65) % 6
    request = drawing.Request([table.prompt[slot] for slot in slots], range(65), table.latent[torch.from_numpy(slots)])

    def draw(batch):
        options = SamplingOptions(steps=2, batch=batch, scheduler="ddpm")
        return drawing.draw(tiny_dpd.model_, request, options, progress=False)

    one = draw(1)
    for batch in (7, 64):
        torch.testing.assert_close(draw(batch), one, rtol=1e-4, atol=1e-4)
    codec = tiny_dpd.fitted_latents().codec
    tiles = [to_sensor(codec.decode(drawn), codec.bands).astype(float) for drawn in (one, draw(64))]
    assert np.abs(tiles[0] - tiles[1]).max() <= 1
