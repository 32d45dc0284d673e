"""Datasets under a policy: what is left, that the split stays, and that prepared copies hold no more."""

import json
import warnings

import numpy as np
import pytest
from helpers.fake_scenes import ListedScenes, write_dataset, write_folder

from rsdistill.captions import create_captioner
from rsdistill.datasets import DATASETS, load_dataset, load_prepared, prepare
from rsdistill.datasets.base import SceneSource
from rsdistill.datasets.loading import resolve_policy, without_excluded
from rsdistill.errors import DatasetError, PolicyError
from rsdistill.sensitive.policy import Policy

OPTIONS = {"size": 16, "chips_per_class": 10}
RULES = """\
dataset: any
rules:
  - {sector: [energy, transport], action: exclude}
  - {class: [forest, river], action: coarsen, into: nature}
  - {sector: food, action: protect}
  - {sector: [none, homes], action: allow}
"""


@pytest.fixture
def policy(tmp_path):
    path = tmp_path / "policy.yaml"
    path.write_text(RULES)
    return path


def ids(view):
    return set(view.chip_ids)


def test_excluded_go_and_merged_share_a_label(policy):
    data = load_dataset("synthetic", policy=policy, **OPTIONS)
    assert [c.key for c in data.classes] == ["nature", "cropland", "centre_pivot_farmland", "beach", "residential"]
    assert data.classes[0].sector is None
    assert data.protected == {"cropland", "centre_pivot_farmland"}
    assert data.policy.counts == {"excluded": 4, "merged": 2, "protected": 2, "allowed": 2}
    everything = data.source
    assert len(everything) == 60
    assert not any(chip.startswith(("runway", "solar", "storage", "motorway")) for chip in everything.chip_ids)
    for position, chip in enumerate(everything.chip_ids):
        key = chip.rsplit("_", 1)[0]
        assert data.classes[everything.labels[position]].key == {"forest": "nature", "river": "nature"}.get(key, key)


def test_without_a_policy_nothing_is_protected():
    data = load_dataset("synthetic", **OPTIONS)
    assert data.policy is None
    assert data.protected == frozenset()


def test_chips_that_are_left_stay_in_their_views(policy):
    whole, governed = (load_dataset("synthetic", policy=p, seed=3, **OPTIONS) for p in (None, policy))
    left = ids(governed.train) | ids(governed.val) | ids(governed.test)
    for view in ("train", "val", "test"):
        assert ids(getattr(governed, view)) == ids(getattr(whole, view)) & left
    chip = governed.train.chip_ids[0]
    same = whole.train.chip_ids.index(chip)
    np.testing.assert_array_equal(governed.train[0]["image"], whole.train[same]["image"])


def test_published_split_counts_the_classes_before_they_are_merged(tmp_path, policy):
    write_dataset(tmp_path, "ucmerced", ("forest", "river", "beach", "runway"), per_class=8)
    data = load_dataset("ucmerced", tmp_path, scheme="published", policy=policy)
    assert {
        c.key: int((data.train.labels == k).sum() + (data.val.labels == k).sum()) for k, c in enumerate(data.classes)
    } == {
        "beach": 4,
        "nature": 8,
    }


def test_folder_that_no_taxonomy_knows_is_refused(tmp_path, policy):
    write_dataset(tmp_path, "aid", ("Beach", "Forest", "Bunker"))
    (tmp_path / "AID" / "Bunker" / "damaged.jpg").write_bytes(b"")
    with pytest.raises(PolicyError, match="no rule covers class 'Bunker' of aid"):
        load_dataset("aid", tmp_path, policy=policy)


def test_choice_of_classes_that_the_policy_excludes_is_refused(policy):
    with pytest.raises(PolicyError, match=r"data\.classes.*asks for 'runway'"):
        load_dataset("synthetic", classes=["forest", "beach", "runway"], policy=policy, **OPTIONS)
    with pytest.raises(PolicyError, match="merges all of option classes"):
        load_dataset("synthetic", classes=["forest", "river"], policy=policy, **OPTIONS)
    data = load_dataset("synthetic", classes=["beach", "river"], policy=policy, **OPTIONS)
    assert sorted(c.key for c in data.classes) == ["beach", "nature"]


def test_policy_of_another_dataset_is_refused(tmp_path, policy):
    policy.write_text(
        RULES.replace("dataset: any", "dataset: eurosat").replace("class: [forest, river]", "class: River")
    )
    with pytest.raises(PolicyError, match="is for dataset 'eurosat', not 'synthetic'"):
        load_dataset("synthetic", policy=policy, **OPTIONS)


def test_policy_object_serves_as_well_as_its_file(policy):
    assert (
        load_dataset("synthetic", policy=Policy.load(policy), **OPTIONS).policy
        == load_dataset("synthetic", policy=policy, **OPTIONS).policy
    )


def test_prepared_copy_knows_what_is_left_and_no_more(tmp_path, policy):
    data = load_dataset("synthetic", policy=policy, **OPTIONS)
    prepare(data, tmp_path / "prepared")
    again = load_prepared(tmp_path / "prepared")
    assert again.policy == data.policy
    assert again.protected == data.protected
    assert len(np.load(tmp_path / "prepared" / "chips.npy")) == 60
    index = (tmp_path / "prepared" / "index.json").read_text()
    assert not any(word in index for word in ("runway", "solar", "storage", "motorway", "forest", "river"))
    prepare(load_dataset("synthetic", **OPTIONS), tmp_path / "plain")
    assert json.loads((tmp_path / "plain" / "index.json").read_text())["policy"] is None
    assert load_prepared(tmp_path / "plain").policy is None


def test_users_folder_and_duplicates(tmp_path, policy):
    write_folder(tmp_path / "own", ("dock", "farm", "wood"))
    copy = (tmp_path / "own" / "dock" / "0.png").read_bytes()
    (tmp_path / "own" / "farm" / "copy.png").write_bytes(copy)
    (tmp_path / "own" / "wood" / "copy.png").write_bytes(copy)
    policy.write_text(
        "dataset: folder\nrules:\n  - {class: dock, action: exclude}\n  - {pattern: '*', action: allow}\n"
    )
    data = load_dataset("folder", tmp_path / "own", gsd=1.0, policy=policy)
    assert [c.key for c in data.classes] == ["farm", "wood"]
    groups = data.source.duplicate_groups()
    assert len(groups) == len(data.source) == 14
    assert len(np.unique(groups)) == 13


class Unlisted(ListedScenes):
    """A dataset that tells its classes only once it is loaded, and counts what is read of it."""

    name = "unlisted"
    reads: list[int] = []

    def __init__(self, root=None, size=None, bands=None, classes=None):
        super().__init__(np.repeat(np.arange(3), 6))

    def read(self, index):
        self.reads.append(index)
        return super().read(index)

    def official_split(self):
        return {"train": np.arange(0, 18, 2), "val": np.array([1, 7, 13]), "test": np.array([3, 5, 9, 11, 15, 17])}


@pytest.mark.parametrize("scheme", ["stratified", "torchgeo"])
def test_dataset_of_another_maker_is_governed_too(scheme, policy, tmp_path):
    with DATASETS.temporary():
        DATASETS.register("unlisted", summary="")(Unlisted)
        policy.write_text(
            "dataset: unlisted\nrules:\n  - {class: c1, action: exclude}\n  - {pattern: 'c*', action: allow}\n"
        )
        data = load_dataset("unlisted", scheme=scheme, policy=policy)
        assert resolve_policy(Policy.load(policy), "unlisted", {}).excluded == ("c1",)
    assert [c.key for c in data.classes] == ["c0", "c2"]
    Unlisted.reads.clear()
    prepare(data, tmp_path / "prepared")
    assert not set(Unlisted.reads) & set(range(6, 12))
    assert set(Unlisted.reads) <= {*range(6), *range(12, 18)}
    if scheme == "torchgeo":
        assert data.val.chip_ids == ["c0/00001.tif", "c2/00013.tif"]


def test_source_without_excluded_keeps_its_own_classes(policy):
    source = DATASETS.create("synthetic", **OPTIONS)
    resolved = Policy.load(policy).resolve(source.classes, "synthetic")
    kept = without_excluded(source, resolved)
    assert isinstance(kept, SceneSource)
    assert [c.key for c in kept.classes] == [
        "forest",
        "cropland",
        "centre_pivot_farmland",
        "river",
        "beach",
        "residential",
    ]
    np.testing.assert_array_equal(kept.read(0), source.read(0))


@pytest.mark.parametrize("also", ["forest_0000", "elsewhere"])
def test_captions_of_excluded_chips_are_left_out_and_not_named(also, policy, tmp_path):
    """A captions file speaks of all chips, also of those that nobody may learn of."""
    path = tmp_path / "captions.csv"
    path.write_text(f"image,caption\nrunway_0000,A runway\n{also},Trees\n")
    data = load_dataset("synthetic", policy=policy, **OPTIONS)
    captioner = create_captioner("file", path=str(path), missing="template")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            texts = [captioner.caption(data, split).texts for split in ("train", "val")]
        except DatasetError as error:
            assert also == "elsewhere"
            said, texts = [error], []
    assert said
    assert "runway" not in str([str(getattr(each, "message", each)) for each in said] + texts)
