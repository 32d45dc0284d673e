"""The latent store: what direct encoding gives, without the test chips, however it is read."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
import zarr

from rsdistill.codecs import LatentStore, encode
from rsdistill.codecs import store as store_module
from rsdistill.errors import ArtifactError, OptionError, StorageError
from rsdistill.imaging.pixels import dihedral


def test_the_eight_views_differ_and_turn_back():
    image = torch.arange(16).reshape(1, 4, 4)
    views = [dihedral(image, view) for view in range(8)]
    assert len({tuple(view.flatten().tolist()) for view in views}) == 8
    assert torch.equal(views[0], image) and torch.equal(views[4], image.flip(-1))
    assert torch.equal(torch.rot90(views[3], 1, (-2, -1)), image)


def test_reads_equal_direct_encoding_in_every_view(tiny_latents, tiny_codec, tiny_data):
    chips = torch.from_numpy(tiny_data.train.images())
    everything = tiny_latents.positions("train", views=True)
    assert len(everything) == 8 * len(chips)
    for view in range(8):
        part = everything[view * len(chips) : (view + 1) * len(chips)]
        mean, logvar = tiny_codec.posterior(dihedral(chips, view))
        batch = tiny_latents.read(part)
        torch.testing.assert_close(batch.mean, mean, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(batch.logvar, logvar, rtol=1e-4, atol=1e-4)
        assert batch.label.tolist() == tiny_data.train.labels.tolist()
        assert set(tiny_latents.view[part]) == {view}


def test_reads_keep_the_order_asked_for(tiny_latents):
    wanted = np.array([5, 2, 5, 40])
    batch = tiny_latents.read(wanted)
    singles = [tiny_latents.read(np.array([position])) for position in wanted]
    assert torch.equal(batch.mean, torch.cat([single.mean for single in singles]))
    assert torch.equal(batch.label, torch.cat([single.label for single in singles]))


def test_validation_chips_stand_once_and_test_chips_never(tiny_latents, tiny_codec, tiny_data):
    val = tiny_latents.positions("val", views=True)
    assert np.array_equal(val, tiny_latents.positions("val")) and len(val) == len(tiny_data.val)
    stored = tiny_latents.open()
    chips = set(stored["chip"].values.tolist())
    assert chips == set(tiny_data.train.indices.tolist()) | set(tiny_data.val.indices.tolist())
    assert not chips & set(tiny_data.test.indices.tolist())
    with pytest.raises(OptionError, match="split 'test' is not in the latent store"):
        tiny_latents.positions("test")


def test_xarray_opens_it_lazily(tiny_latents, tiny_codec, tmp_path):
    copy = LatentStore(shutil.copytree(tiny_latents.path, tmp_path / "latents"), tiny_codec)
    opened = copy.open()
    assert opened["mean"].dims == opened["logvar"].dims == ("sample", "channel", "y", "x")
    assert opened["label"].dims == opened["split"].dims == opened["view"].dims == ("sample",)
    assert opened["mean"].shape == (len(tiny_latents.label), tiny_codec.latent_channels, 8, 8)
    # What is written later is read: nothing was held.
    zarr.open_group(copy.path, mode="r+")["mean"][:] = 3.0
    assert (opened["mean"].values == 3.0).all()


def test_streaming_gives_what_memory_gives(tiny_latents, monkeypatch):
    positions = tiny_latents.positions("train", views=True)[::3]
    which = torch.tensor([7, 0, 7, 30])
    held = tiny_latents.reader(positions)
    reads = []
    monkeypatch.setattr(store_module, "MAX_IN_MEMORY", 0)
    streaming = tiny_latents.reader(positions)
    monkeypatch.setattr(LatentStore, "read", lambda self, at, read=LatentStore.read: reads.append(at) or read(self, at))
    assert all(torch.equal(a, b) for a, b in zip(held(which), streaming(which), strict=True))
    assert len(reads) == 1 and reads[0].tolist() == positions[which.numpy()].tolist()


@pytest.mark.parametrize("views", [1, 4])
def test_fewer_views_and_any_batch(tiny_codec, tiny_data, tiny_latents, tmp_path, views):
    small = encode(tiny_codec, tiny_data, tmp_path / "store", views=views, batch=7, progress=False)
    assert len(small.positions("train", views=True)) == views * len(tiny_data.train)
    whole = tiny_latents.read(tiny_latents.positions("val"))
    torch.testing.assert_close(small.read(small.positions("val")).mean, whole.mean, rtol=1e-4, atol=1e-4)


def test_an_interrupted_encode_leaves_nothing(tiny_codec, tiny_data, tmp_path, monkeypatch):
    posterior, calls = type(tiny_codec).posterior, []

    def fails_later(self, images):
        calls.append(len(images))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return posterior(self, images)

    monkeypatch.setattr(type(tiny_codec), "posterior", fails_later)
    with pytest.raises(KeyboardInterrupt):
        encode(tiny_codec, tiny_data, tmp_path / "store", batch=8, progress=False)
    assert len(calls) == 3 and not list(tmp_path.iterdir())


def test_a_store_is_replaced_only_when_asked(tiny_codec, tiny_data, tmp_path):
    for attempt in range(2):
        encode(tiny_codec, tiny_data, tmp_path / "store", views=1, overwrite=bool(attempt), progress=False)
    with pytest.raises(StorageError, match="exists"):
        encode(tiny_codec, tiny_data, tmp_path / "store", views=1, progress=False)


def test_what_is_no_store_is_refused(tiny_codec, tiny_data, tmp_path):
    with pytest.raises(ArtifactError, match="holds no latent store"):
        LatentStore(tmp_path / "none", tiny_codec)
    (tmp_path / "zarr.json").write_text("{", encoding="utf-8")
    with pytest.raises(ArtifactError, match="holds no latent store"):
        LatentStore(tmp_path, tiny_codec)
    with pytest.raises(OptionError, match=r"encode\.views 3 is not possible"):
        encode(tiny_codec, tiny_data, tmp_path / "store", views=3)
