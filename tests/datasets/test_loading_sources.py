"""Sources that know no sizes, bands, classes or roots: the loader does for them what they do not take."""

import numpy as np
import pytest

from rsdistill.bands import get_bands
from rsdistill.classes import ClassInfo
from rsdistill.datasets import DATASETS, SceneSource, SplitOptions, load_dataset
from rsdistill.datasets.loading import check_data_options, load_scenes, resolve_policy, source_options
from rsdistill.errors import OptionError, UnknownNameError
from rsdistill.sensitive.policy import Policy


class Ramps(SceneSource):
    """Chips of four bands whose values tell class, band and place; those of class secret cannot be read.

    Args:
        per_class: Chips of each class.
    """

    name, licence, citation, gsd = "ramps", "CC0-1.0", "", 2.0
    classes = tuple(ClassInfo(key, key) for key in ("secret", "low", "high"))
    bands = get_bands("bgrn")

    def __init__(self, per_class: int = 6) -> None:
        self.labels = np.repeat(np.arange(3), per_class)
        self.chip_ids = [f"{label}/{number}" for number, label in enumerate(self.labels)]

    def read(self, index):
        assert self.labels[index], "a chip that nobody may read"
        chip = np.arange(1, 65, dtype=np.uint16).reshape(8, 8) + 1000 * int(self.labels[index])
        return np.stack([chip + 100 * band for band in range(4)])


@pytest.fixture(autouse=True)
def ramps():
    with DATASETS.temporary():
        DATASETS.register("ramps", summary="ramps")(Ramps)
        yield


def test_loader_takes_size_bands_and_classes():
    data = load_dataset("ramps", size=4, bands=["red", "blue"], classes=["high", "low"], train=0.5)
    chips = Ramps().read(12)[[2, 0]].astype(float)
    assert [c.key for c in data.classes] == ["low", "high"]
    assert data.bands.names == ("red", "blue") and data.gsd == 4.0
    image = data.train.images(np.flatnonzero(data.train.labels == 1))[0]
    assert image.dtype == np.uint16
    np.testing.assert_allclose(image, chips.reshape(2, 4, 2, 4, 2).mean((2, 4)), atol=0.5)


def test_larger_chips_are_interpolated_and_nodata_does_not_bleed():
    source = load_dataset("ramps", size=16, classes=["low"]).source
    assert source.gsd == 1.0 and source.read(0).shape == (4, 16, 16)
    holes = Ramps()
    chip = Ramps.read(holes, 6)
    chip[:, :4] = 0
    holes.read = lambda index: chip.copy()
    DATASETS.register("ramps-with-holes", summary="ramps with holes")(lambda: holes)
    small = load_dataset("ramps-with-holes", size=4).source.read(0)
    assert (small[:, :2] == 0).all() and (small[:, 2:] > 1000).all()


def test_nothing_asked_leaves_the_source_as_it_is():
    assert type(load_dataset("ramps").source) is Ramps
    assert type(load_dataset("synthetic", size=16, bands="rgb", classes=["river"]).source).__name__ == "SyntheticScenes"


def test_options_are_parted_between_source_and_loader():
    taken, left = source_options("ramps", {"size": 4, "root": None}, {"per_class": "3"})
    assert taken == {"per_class": 3} and left.size == 4
    taken, left = source_options("synthetic", {"size": 16}, {})
    assert taken == {"size": 16} and left.size is None
    assert check_data_options("ramps", {"size": 4, "bands": ["red"]}, {}) == {"size": 4, "bands": ("red",)}


@pytest.mark.parametrize(
    ("given", "options", "error", "said"),
    [
        ({}, {"per_clas": 3}, UnknownNameError, r"data\.options.*'per_clas'.*did you mean 'per_class'"),
        ({}, {"siz": 3}, UnknownNameError, "did you mean 'size'"),
        ({"root": "data"}, {}, OptionError, r"option root .*'ramps' reads no files; leave it out"),
        ({"size": 0}, {}, OptionError, r"option data\.options\.size"),
        ({"bands": {"name": "x"}}, {}, OptionError, r"option data\.options\.bands"),
    ],
)
def test_unknown_and_unfit_options_are_refused(given, options, error, said):
    with pytest.raises(error, match=said):
        check_data_options("ramps", given, options)


def test_unknown_bands_and_classes_are_refused():
    with pytest.raises(UnknownNameError, match="'swir'"):
        load_dataset("ramps", bands=["swir"], classes=["low"])
    with pytest.raises(UnknownNameError, match="did you mean 'high'"):
        load_dataset("ramps", classes=["higg"])


def test_policy_keeps_chips_of_excluded_classes_unread(tmp_path):
    rules = "dataset: any\nrules:\n  - {class: [secret], action: exclude}\n  - {class: [low, high], action: allow}\n"
    (tmp_path / "policy.yaml").write_text(rules)
    policy = Policy.load(tmp_path / "policy.yaml")
    assert resolve_policy(policy, "ramps", {"size": 4, "classes": ("low",)}).excluded == ("secret",)
    data = load_scenes("ramps", {"size": 4}, SplitOptions(), policy)
    assert [c.key for c in data.classes] == ["low", "high"]
    assert data.train.images().shape[1:] == (4, 4, 4)
