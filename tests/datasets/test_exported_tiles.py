"""Exported tiles read back as a torchgeo dataset, also after edits."""

import sqlite3
from contextlib import closing

import numpy as np
import pytest
import torch
from helpers.export_samples import make_set

from rsdistill.datasets.exported_tiles import DistilledTiles
from rsdistill.errors import ChipError, DatasetError, UnknownNameError
from rsdistill.export import export_tiles


@pytest.fixture
def exported(tmp_path):
    """A set of six tiles of two classes, and where it was exported to."""
    tiles = make_set(6)
    return tiles, export_tiles(tiles, tmp_path / "tiles", progress=False)


def edit(folder, statement, *values):
    """Change the index as a person would in QGIS."""
    with closing(sqlite3.connect(folder / "index.gpkg")) as database, database:
        # The triggers keep the spatial index, with functions that only GDAL has.
        for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            database.execute(f'DROP TRIGGER "{name}"')
        database.execute(statement, values)


def in_order(tiles):
    """Positions of a set's samples by label and slot, as the dataset lists them."""
    return sorted(range(len(tiles)), key=lambda n: (tiles.label[n], tiles.slots[n]))


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32"])
def test_values_and_labels_are_those_of_the_set(tmp_path, dtype):
    tiles = make_set(5, dtype=dtype)
    dataset = DistilledTiles(export_tiles(tiles, tmp_path / "out", progress=False))
    assert len(dataset) == 5
    assert dataset.classes == [info.name for info in tiles.classes]
    for found, position in zip(dataset, in_order(tiles), strict=True):
        assert found["image"].dtype == torch.float32
        np.testing.assert_array_equal(found["image"].numpy(), tiles.image[position].astype(np.float32))
        assert int(found["label"]) == tiles.label[position]


def test_requantised_tiles_come_back_within_half_a_step(tmp_path):
    tiles = make_set(2, dtype="uint16")
    dataset = DistilledTiles(export_tiles(tiles, tmp_path / "out", dtype="uint8", progress=False))
    step = (10000 - 1) / 254
    assert np.abs(dataset[0]["image"].numpy() - tiles.image[0]).max() <= step / 2 + 1e-3
    assert len(np.unique(dataset[0]["image"].numpy())) > 100


def test_bands_are_chosen_by_name(exported):
    tiles, folder = exported
    dataset = DistilledTiles(folder, bands=["nir", "red"])
    np.testing.assert_array_equal(dataset[0]["image"].numpy(), tiles.image[0][[3, 2]])
    with pytest.raises(UnknownNameError, match="swir"):
        DistilledTiles(folder, bands=["swir"])


def test_a_renamed_class_keeps_its_label(exported):
    _, folder = exported
    edit(folder, "UPDATE tiles SET class_name = 'canal' WHERE class_name = 'river'")
    dataset = DistilledTiles(folder)
    assert dataset.classes == ["canal", "dunes & forest"]
    assert dataset.targets == [0, 0, 0, 1, 1, 1]


def test_tiles_moved_to_a_new_name_make_a_new_class(exported):
    _, folder = exported
    edit(folder, "UPDATE tiles SET class_name = 'canal' WHERE class_name = 'river' AND slot = 1")
    dataset = DistilledTiles(folder)
    assert dataset.classes == ["river", "dunes & forest", "canal"]
    assert dataset.targets == [0, 2, 0, 1, 1, 1]


def test_tiles_moved_to_another_class_take_its_label(exported):
    _, folder = exported
    edit(folder, "UPDATE tiles SET class_name = 'dunes & forest'")
    dataset = DistilledTiles(folder)
    assert dataset.classes == ["river", "dunes & forest"]
    assert set(dataset.targets) == {1}


def test_deleted_tiles_and_rows_are_left_out(exported):
    tiles, folder = exported
    (folder / "tiles/river/river_001.tif").unlink()
    edit(folder, "DELETE FROM tiles WHERE tile = 'river_002'")
    dataset = DistilledTiles(folder)
    assert dataset.targets == [0, 1, 1, 1]
    np.testing.assert_array_equal(dataset[0]["image"].numpy(), tiles.image[0])


def test_a_class_without_tiles_keeps_the_labels_of_the_others(exported):
    _, folder = exported
    for path in (folder / "tiles/river").glob("*.tif"):
        path.unlink()
    assert DistilledTiles(folder).targets == [1, 1, 1]


def test_bad_folders_are_refused(exported, tmp_path):
    _, folder = exported
    with pytest.raises(DatasetError, match=r"manifest\.json"):
        DistilledTiles(tmp_path)
    edit(folder, "UPDATE tiles SET path = '../../outside.tif' WHERE tile = 'river_002'")
    with pytest.raises(DatasetError, match="outside the folder"):
        DistilledTiles(folder)
    (folder / "index.gpkg").unlink()
    with pytest.raises(DatasetError, match="is missing"):
        DistilledTiles(folder)


def test_a_folder_without_any_tile_is_refused(exported):
    _, folder = exported
    for path in (folder / "tiles").rglob("*.tif"):
        path.unlink()
    with pytest.raises(DatasetError, match="no tile"):
        DistilledTiles(folder)


def test_a_damaged_tile_is_named(exported):
    _, folder = exported
    (folder / "tiles/river/river_000.tif").write_bytes(b"II*\0 nothing")
    with pytest.raises(ChipError, match="river_000"):
        DistilledTiles(folder)[0]


def test_plot_shows_the_class(exported):
    _, folder = exported
    dataset = DistilledTiles(folder)
    figure = dataset.plot(dataset[0], suptitle="one")
    assert "river" in figure.axes[0].get_title()


def test_transforms_are_applied(exported):
    _, folder = exported
    plain = DistilledTiles(folder)[0]["image"]
    changed = DistilledTiles(folder, transforms=lambda sample: {**sample, "image": sample["image"] * 2})[0]["image"]
    assert torch.equal(changed, plain * 2)


def test_rasterdataset_of_torchgeo_reads_the_tiles(exported):
    from torchgeo.datasets import RasterDataset

    tiles, folder = exported
    dataset = RasterDataset(str(folder / "tiles" / "river"), res=10.0)
    assert dataset.crs.is_projected is False
    sample = dataset[dataset.bounds]
    found = sample["image"].numpy()
    first = tiles.image[0].astype(np.float32)
    # Slot 0 lies at the left end of the class's row.
    np.testing.assert_array_equal(found[:, : first.shape[1], : first.shape[2]], first)


def test_a_torchgeo_classification_task_trains_on_tiles(exported):
    import lightning
    from torch.utils.data import DataLoader

    try:
        from torchgeo.tasks import Classification as Task
    except ImportError:
        from torchgeo.trainers import ClassificationTask as Task

    def scaled(sample):
        return {**sample, "image": sample["image"] / 10000}

    _, folder = exported
    dataset = DistilledTiles(folder, transforms=scaled)
    task = Task(model="resnet18", in_channels=4, num_classes=len(dataset.classes), lr=0.1)
    before = [parameter.detach().clone() for parameter in task.parameters()]
    trainer = lightning.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False
    )
    trainer.fit(task, DataLoader(dataset, batch_size=3), DataLoader(dataset, batch_size=3))
    changed = [not torch.equal(a, b) for a, b in zip(before, task.parameters(), strict=True)]
    assert any(changed)
    assert all(torch.isfinite(parameter).all() for parameter in task.parameters())
