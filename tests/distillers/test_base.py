"""Every method: train chips only, the same set for the same seed, mistakes by name."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from helpers.method_fixtures import table_of

from rsdistill.captions import class_prompts
from rsdistill.diffusion.sampling import sample
from rsdistill.diffusion.teacher import margin
from rsdistill.distilled import DistilledSet
from rsdistill.distillers import DISTILLERS, Distiller, create_distiller, list_distillers
from rsdistill.errors import DatasetError, ModelError, OptionError
from rsdistill.training.trainer import derived_seed
from rsdistill.utils.clustering import pooled_features
from rsdistill.utils.provenance import REAL

SUBSETS = ("random", "herding", "kcenter", "kmeans")
IPC = 3


def pixels(images):
    return [image.tobytes() for image in images]


def subset(name, data, latents, ipc=IPC, seed=0, **options):
    return create_distiller(name, **options).fit(data, latents).distill(ipc, seed)


def features_of(latents, label, grid_size=8):
    positions = latents.positions("train")
    return pooled_features(latents.read(positions[latents.label[positions] == label]).mean, grid_size)


def chosen_of(made, data, label):
    """Positions of a set's chips among the train chips of a class, in the set's order."""
    members = pixels(data.train.images(np.flatnonzero(data.train.labels == label)))
    return [members.index(image) for image in pixels(made.image[made.label == label])]


@pytest.mark.parametrize("name", SUBSETS)
def test_subsets_take_train_chips_once_each(tiny_data, tiny_latents, name):
    made = subset(name, tiny_data, tiny_latents)
    train = dict(zip(pixels(tiny_data.train.images()), tiny_data.train.labels, strict=True))
    unseen = set(pixels(tiny_data.val.images())) | set(pixels(tiny_data.test.images()))
    taken = pixels(made.image)
    assert len(set(taken)) == len(taken) == IPC * 3 and not unseen & set(taken)
    assert [train[image] for image in taken] == made.label.tolist() == [0] * IPC + [1] * IPC + [2] * IPC
    assert not made.is_synthetic and made.manifest["digital_source_type"] == REAL
    assert made.caption == tuple(np.repeat(class_prompts(tiny_data.classes), IPC))


@pytest.mark.parametrize("name", SUBSETS)
def test_subsets_follow_their_seed(tiny_data, tiny_latents, name):
    np.random.seed(1)  # noqa: NPY002 - the global state must not matter
    first = subset(name, tiny_data, tiny_latents, seed=4)
    np.random.seed(2)  # noqa: NPY002
    assert first == subset(name, tiny_data, tiny_latents, seed=4)
    if name in ("random", "kcenter"):
        others = [subset(name, tiny_data, tiny_latents, seed=seed) for seed in (5, 6, 7)]
        assert any(pixels(other.image) != pixels(first.image) for other in others)


@pytest.mark.parametrize("name", SUBSETS)
def test_a_whole_class_can_be_taken(tiny_data, tiny_latents, name):
    most = int(np.bincount(tiny_data.train.labels).min())
    made = subset(name, tiny_data, tiny_latents, ipc=most)
    assert sorted(chosen_of(made, tiny_data, 0)) == list(range(most))


def test_herding_is_greedy_mean_matching(tiny_data, tiny_latents):
    made = subset("herding", tiny_data, tiny_latents, grid_size=2)
    for label in range(3):
        features = features_of(tiny_latents, label, 2).astype(np.float64)
        naive: list[int] = []
        for _ in range(IPC):
            free = [i for i in range(len(features)) if i not in naive]
            naive.append(min(free, key=lambda i: np.linalg.norm(features[[*naive, i]].mean(0) - features.mean(0))))
        assert chosen_of(made, tiny_data, label) == naive


def test_kcenter_takes_the_farthest_each_time(tiny_data, tiny_latents):
    made = subset("kcenter", tiny_data, tiny_latents, grid_size=2)
    for label in range(3):
        features = features_of(tiny_latents, label, 2)
        chosen = chosen_of(made, tiny_data, label)
        for count in range(1, IPC):
            gaps = [min(np.linalg.norm(f - features[c]) for c in chosen[:count]) for f in features]
            assert gaps[chosen[count]] == pytest.approx(max(gaps))


def test_kmeans_takes_members_nearest_to_their_centres(tiny_data, tiny_latents):
    from sklearn.cluster import KMeans

    made = subset("kmeans", tiny_data, tiny_latents, grid_size=2)
    for label in range(3):
        features = features_of(tiny_latents, label, 2)
        fitted = KMeans(IPC, n_init=10, random_state=derived_seed(0, label) % 2**31).fit(features)
        for cluster, chosen in enumerate(chosen_of(made, tiny_data, label)):
            members = np.flatnonzero(fitted.labels_ == cluster)
            gaps = np.linalg.norm(features[members] - fitted.cluster_centers_[cluster], axis=1)
            assert chosen == members[gaps.argmin()]


@pytest.mark.parametrize("name", [*SUBSETS, "dpd"])
def test_classes_too_small_are_named(tiny_data, tiny_latents, tiny_dpd, name):
    method = tiny_dpd if name == "dpd" else create_distiller(name).fit(tiny_data, tiny_latents)
    with pytest.raises(DatasetError, match=r"fewer train chips than ipc=50: forest \(9\), beach \(9\), solar_farm"):
        method.distill(50)


@pytest.mark.parametrize("name", [*SUBSETS, "dpd"])
def test_a_method_must_be_fitted(tiny_data, name):
    with pytest.raises(ModelError, match="not fitted"):
        create_distiller(name).distill(1)
    if name != "random":
        with pytest.raises(ModelError, match="needs latents"):
            create_distiller(name).fit(tiny_data)


def test_dpd_follows_its_seed(tiny_dpd):
    torch.manual_seed(1)
    first = tiny_dpd.distill(2, seed=1)
    torch.manual_seed(2)
    assert tiny_dpd.distill(2, seed=1) == first
    other = tiny_dpd.distill(2, seed=2)
    assert not any(np.array_equal(a, b) for a, b in zip(first.image, other.image, strict=True))


def test_dpd_makes_new_images_in_sensor_units(tiny_dpd, tiny_data):
    made = tiny_dpd.distill(2)
    assert made.image.shape == (6, 4, 16, 16) and made.image.dtype == np.uint16
    low, high = tiny_data.bands.valid_range
    assert made.image.min() >= low and made.image.max() <= high
    assert not set(pixels(made.image)) & set(pixels(tiny_data.source.read(i) for i in range(len(tiny_data.source))))
    assert made.is_synthetic and made.label.tolist() == [0, 0, 1, 1, 2, 2]


def test_dpd_keeps_the_candidate_with_the_largest_margin(tiny_dpd, tiny_data):
    table, prompts = table_of(tiny_dpd, 2), class_prompts(tiny_data.classes)
    scores = []
    for slot, label in enumerate(table.label):
        seeds = [derived_seed(0, 31, 3, slot * 2 + candidate) for candidate in range(2)]
        drawn = sample(
            tiny_dpd.model_, [prompts[label]] * 2, seeds, table.latent[[slot, slot]], tiny_dpd.sampling, progress=False
        )
        scores.append(float(margin(tiny_dpd.teacher_(drawn), torch.full((2,), int(label))).max()))
    np.testing.assert_allclose(tiny_dpd.distill(2, seed=3).score, scores, rtol=1e-3, atol=1e-3)


def test_manifests_say_how_and_name_no_chip(tiny_dpd, tiny_data, tiny_latents):
    for made in (tiny_dpd.distill(2, seed=5), subset("random", tiny_data, None, seed=5)):
        manifest = made.manifest
        assert manifest["seed"] == 5 and manifest["dataset"]["licence"] == "CC0-1.0" and "torch" in manifest["versions"]
        text = json.dumps([manifest, list(made.caption)])
        assert not [chip for chip in tiny_data.source.chip_ids if chip in text]
        assert str(tiny_latents.path) not in text
    manifest = tiny_dpd.distill(2).manifest
    assert manifest["method"] == "dpd" and manifest["options"]["sampling"]["guidance"]["grid_size"] == 2
    assert manifest["options"]["teacher"]["steps"] == 20 and manifest["prototypes"]["min_n_sources"] == 9


def test_stages_saved_and_loaded_give_the_same_set(tiny_dpd, tiny_data, tiny_latents, quiet, tmp_path):
    again = create_distiller("dpd", sampling={"steps": 3}, candidates=2).attach(tiny_data, tiny_latents, trainer=quiet)
    wanted = tiny_dpd.distill(2)
    for ours, theirs in zip(tiny_dpd.steps(2, [0]), again.steps(2, [0]), strict=True):
        if ours.name == "candidates":
            ours.fit(tmp_path / "drawn")
        (tmp_path / ours.name).mkdir(exist_ok=True)
        ours.save(tmp_path / ours.name)
        theirs.load(tmp_path / ours.name)
    assert np.array_equal(again.distill(2).image, wanted.image)
    assert np.array_equal(again.distill(2).image, tiny_dpd.distill(2).image)


def test_a_method_of_ten_lines_registers_and_works(tiny_data):
    with DISTILLERS.temporary():

        @DISTILLERS.register("mean", summary="the mean of each class")
        class Mean(Distiller):
            def distill(self, ipc, seed=0):
                train, classes = self.data_.train, range(len(self.data_.classes))
                means = [train.images(np.flatnonzero(train.labels == c)).mean(0) for c in classes for _ in range(ipc)]
                return DistilledSet(
                    np.stack(means), np.repeat(classes, ipc), self.data_.classes, self.data_.bands, self.data_.gsd,
                    self.manifest(ipc, seed),
                )  # fmt: skip

        assert "mean" in list_distillers()
        made = create_distiller("mean").fit(tiny_data).distill(2)
        assert made.ipc == 2 and len(made) == 6 and made.manifest["method"] == "Mean"
        assert not create_distiller("mean").steps(2, [0]) and not create_distiller("mean").requirements.latents


def test_latents_must_be_halved_as_often_as_the_preset_does():
    assert create_distiller("dpd").requirements.size_multiple == 2
    assert create_distiller("random").requirements.size_multiple == 1
    with pytest.raises(OptionError, match="unknown diffusion preset 'tinny': did you mean 'tiny'"):
        create_distiller("dpd", preset="tinny")


def test_options_stay_untouched_until_the_fit():
    method = create_distiller("dpd", candidates=7)
    assert method.candidates == 7 and method.model_ is None and method.table_ is None
    assert {"dpd", *SUBSETS} <= set(list_distillers())
