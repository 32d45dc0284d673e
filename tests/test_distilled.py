"""The artifact: equal after every round trip, refused when altered."""

from __future__ import annotations

import shutil
from dataclasses import replace

import h5py
import numpy as np
import pytest
import zarr

from rsdistill.bands import Band, BandSet, get_bands
from rsdistill.classes import ClassInfo
from rsdistill.distilled import DistilledSet, quantise
from rsdistill.errors import ArtifactError, BandError, OptionError, StorageError
from rsdistill.utils.io import complete_folder, write_json
from rsdistill.utils.provenance import REAL, canonical_json

CLASSES = (ClassInfo("forest", "forest"), ClassInfo("storagetanks", "storage tanks", "energy"))
KINDS = {
    "uint8": get_bands("rgb"),
    "uint16": get_bands("bgrn"),
    "float32": BandSet((Band("vv"),), "radar", "float32", (-30, 10)),
}


def make(dtype="uint16", count=5, **changes):
    bands = KINDS[dtype]
    image = (np.random.default_rng(0).random((count, len(bands), 6, 7)) * 200).astype(dtype)
    soft = np.full((count, 2), 0.5, np.float32)
    parts = {
        "soft_label": soft,
        "caption": ["été à la plage", "", "b", "c", "d"][:count],
        "score": np.array([1.5, np.nan, 0, -2, 3], np.float32)[:count],
        "verdict": ["pass", "review", "block", "pass", "pass"][:count],
    } | changes
    label = np.array([1, 0, 1, 1, 0])[:count]
    return DistilledSet(image, label, CLASSES, bands, 10, {"method": "dpd", "options": {"cells": (2, None)}}, **parts)


@pytest.mark.parametrize("ending", [".nc", ".zarr"])
@pytest.mark.parametrize("dtype", KINDS)
def test_a_set_comes_back_equal(tmp_path, dtype, ending):
    made = make(dtype)
    loaded = DistilledSet.load(made.save(tmp_path / "deep" / f"set{ending}"))
    assert loaded == made and loaded.image.dtype == dtype
    assert np.array_equal(loaded.image, made.image) and loaded.caption == made.caption
    assert loaded.bands == made.bands and loaded.classes == CLASSES
    assert np.array_equal(loaded.score, made.score, equal_nan=True)
    assert [path.name for path in (tmp_path / "deep").iterdir()] == [f"set{ending}"]


@pytest.mark.parametrize("ending", [".nc", ".zarr"])
def test_a_plain_set_comes_back_equal(tmp_path, ending):
    made = make(soft_label=None, caption=(), score=np.empty(0), verdict=None)
    loaded = DistilledSet.load(made.save(tmp_path / f"set{ending}"))
    assert loaded == made and loaded.soft_label is None and loaded.verdict is None
    assert np.isnan(loaded.score).all() and loaded.caption == ("",) * 5


def test_an_altered_netcdf_is_refused(tmp_path):
    path = make().save(tmp_path / "set.nc")
    with h5py.File(path, "r+") as file:
        file["image"][0, 0, 0, 0] += 1
    with pytest.raises(ArtifactError, match="set.nc was altered"):
        DistilledSet.load(path)


def test_an_altered_zarr_is_refused(tmp_path):
    path = make().save(tmp_path / "set.zarr")
    label = zarr.open_group(path, mode="r+")["label"]
    label[0] = 1 - label[0]
    with pytest.raises(ArtifactError, match="set.zarr was altered"):
        DistilledSet.load(path)


def test_altered_metadata_is_refused(tmp_path):
    path = make().save(tmp_path / "set.nc")
    with h5py.File(path, "r+") as file:
        file.attrs["metadata"] = file.attrs["metadata"].replace('"method":"dpd"', '"method":"dm"')
    with pytest.raises(ArtifactError, match="altered"):
        DistilledSet.load(path)


def test_damaged_missing_and_foreign_files_are_refused(tmp_path):
    path = make().save(tmp_path / "set.nc")
    path.write_bytes(path.read_bytes()[:400])
    with pytest.raises(ArtifactError, match="cannot be read as a distilled set"):
        DistilledSet.load(path)
    with pytest.raises(ArtifactError, match="does not exist"):
        DistilledSet.load(tmp_path / "none.nc")
    make().to_xarray().drop_attrs().to_netcdf(tmp_path / "other.nc", engine="h5netcdf")
    with pytest.raises(ArtifactError, match="is not a distilled set of format"):
        DistilledSet.load(tmp_path / "other.nc")


def test_a_file_is_replaced_only_when_asked(tmp_path):
    path = make().save(tmp_path / "set.zarr")
    with pytest.raises(ArtifactError, match="exists; choose another name"):
        make().save(path)
    fewer = make(count=3)
    fewer.save(path, overwrite=True)
    assert DistilledSet.load(path) == fewer
    with pytest.raises(ArtifactError, match="saved as .nc or .zarr"):
        make().save(tmp_path / "set.tif")


def test_a_failed_save_leaves_nothing(tmp_path, monkeypatch):
    def fail(*_, **__):
        (tmp_path / ".partial-set.nc").write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("xarray.Dataset.to_netcdf", fail)
    with pytest.raises(StorageError, match="set.nc: the disk is full"):
        make().save(tmp_path / "set.nc")
    assert not list(tmp_path.iterdir())


def test_equality_sees_every_part():
    made = make()
    changed = [
        replace(made, image=made.image[:, :, ::-1]),
        replace(made, label=1 - made.label),
        replace(made, caption=["x"] * 5),
        replace(made, score=np.zeros(5)),
        replace(made, verdict=["pass"] * 5),
        replace(made, soft_label=None),
        replace(made, manifest={}),
        replace(made, gsd=11),
    ]
    assert made == make() and made != "a set"
    assert all(other != made for other in changed)


def test_subset_takes_positions_and_masks():
    made = make()
    assert made.subset(np.array([0, 2])) == made.subset(np.array([True, False, True, False, False]))
    part = made.subset(np.array([3, 1]))
    assert part.caption == ("c", "") and list(part.verdict) == ["pass", "review"] and part.manifest == made.manifest
    assert np.array_equal(part.image, made.image[[3, 1]]) and np.array_equal(part.soft_label, made.soft_label[[3, 1]])


def test_slots_count_within_a_class():
    made = make()
    assert made.slots.tolist() == [0, 0, 1, 2, 1]
    assert made.ipc == 3 and len(made) == 5
    assert made.is_synthetic and not replace(made, manifest={"digital_source_type": REAL}).is_synthetic


def test_it_is_a_torch_dataset():
    made = make()
    image, label, soft = made.as_torch_dataset()[2]
    assert image.shape == (4, 6, 7) and str(image.dtype) == "torch.float32" and int(label) == 1
    assert np.array_equal(image.numpy(), made.image[2]) and soft.sum() == 1
    assert len(replace(made, soft_label=None).as_torch_dataset()[0]) == 2


@pytest.mark.parametrize(("dtype", "colour"), [*((dtype, "natural") for dtype in KINDS), ("uint16", "false")])
def test_a_contact_sheet_has_a_row_a_class(dtype, colour):
    figure = make(dtype).plot(colour)
    assert len(figure.axes) == 2 * 3
    assert sum(len(axis.images) for axis in figure.axes) == 5
    assert {text.get_text() for axis in figure.axes for text in axis.texts} == {"forest", "storage tanks"}
    assert len(make(dtype).plot(colour, columns=1).axes) == 2


def test_what_cannot_be_plotted_is_said():
    with pytest.raises(OptionError, match="choose 'natural' or 'false'"):
        make().plot("sepia")
    with pytest.raises(BandError, match="false colour needs near infrared.*red, green, blue"):
        make("uint8").plot("false")
    with pytest.raises(ArtifactError, match="no samples to plot"):
        make().subset(np.array([], int)).plot()


def test_parts_that_do_not_fit_are_refused():
    made = make()
    for wrong in ({"label": made.label[:3]}, {"label": made.label + 1}, {"caption": ["a"]}, {"score": np.zeros(2)}):
        with pytest.raises(ArtifactError):
            replace(made, **wrong)
    with pytest.raises(ArtifactError, match="soft labels have shape"):
        replace(made, soft_label=np.ones((5, 3)))
    with pytest.raises(BandError, match="images have 2 bands, the band set 4"):
        replace(made, image=made.image[:, :2])


def test_a_folder_is_complete_or_absent(tmp_path):
    target = tmp_path / "stage"
    with pytest.raises(RuntimeError), complete_folder(target) as partial:
        (partial / "half").touch()
        raise RuntimeError
    assert not list(tmp_path.iterdir())
    for text in ("first", "second"):
        with complete_folder(target, overwrite=text == "second") as partial:
            (partial / text).touch()
    assert [path.name for path in target.iterdir()] == ["second"]
    with pytest.raises(StorageError, match="exists"), complete_folder(target):
        pass
    shutil.rmtree(target)
    target.touch()
    with pytest.raises(StorageError, match="is a file, not a folder"), complete_folder(target / "below" / "it"):
        pass


def test_json_is_complete_or_absent(tmp_path):
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", {"x": object()})
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="a part of the path is a file"):
        write_json(tmp_path / "file" / "a.json", 1)
    assert canonical_json({"b": 1, "a": (1, 2)}) == '{"a":[1,2],"b":1}'


def test_rounded_soft_labels_are_packed_on_disk_and_come_back_equal(tmp_path):
    shares = np.random.default_rng(0).dirichlet([1.0, 1.0], 5).astype(np.float32)
    for soft, names in (
        (quantise(shares, 2).unpack(), {"soft_index", "soft_weight"}),
        (shares, {"soft_label"}),
    ):
        made = make(soft_label=soft)
        assert {name for name in made.to_xarray().data_vars if name.startswith("soft")} == names
        path = made.save(tmp_path / f"{len(names)}.nc")
        assert DistilledSet.load(path) == made
