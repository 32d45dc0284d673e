"""AID as torchgeo would have it."""

import hashlib
import shutil

import pytest
import torch
from helpers.fake_scenes import serve, write_dataset
from torchgeo.datasets import DatasetNotFoundError

from rsdistill.datasets import AID


@pytest.fixture
def served(tmp_path, monkeypatch):
    """An archive like the original, where AID's url points to."""
    write_dataset(tmp_path / "made", "aid", per_class=10)
    archive = shutil.make_archive(str(tmp_path / "AID"), "zip", tmp_path / "made")
    with open(archive, "rb") as stream:
        monkeypatch.setattr(AID, "sha256", hashlib.file_digest(stream, "sha256").hexdigest())
    with serve(tmp_path) as url:
        monkeypatch.setattr(AID, "url", f"{url}/AID.zip")
        yield tmp_path / "AID.zip"


def test_download_extract_and_samples(served, tmp_path):
    dataset = AID(tmp_path / "root", download=True)
    assert (tmp_path / "root" / "AID.zip").is_file()
    assert len(dataset) == 20
    assert dataset.classes == ["Beach", "Forest"]
    sample = dataset[15]
    assert sample["image"].dtype == torch.float32
    assert sample["image"].shape == (3, 16, 16)
    assert sample["image"].max() > 1
    assert sample["label"].item() == 1
    assert len(AID(tmp_path / "root")) == 20


def test_archive_at_hand_is_extracted(served, tmp_path):
    (tmp_path / "root").mkdir()
    shutil.copy(served, tmp_path / "root")
    assert len(AID(str(tmp_path / "root"))) == 20


def test_corrupted_archive_is_not_extracted(served, tmp_path, monkeypatch):
    monkeypatch.setattr(AID, "sha256", "0" * 64)
    with pytest.raises(RuntimeError, match="AID.zip is corrupted: its sha256 is"):
        AID(tmp_path / "root", download=True)
    assert not (tmp_path / "root" / "AID").exists()
    assert len(AID(tmp_path / "root", checksum=False)) == 20


def test_not_downloaded(tmp_path):
    with pytest.raises(DatasetNotFoundError, match="Dataset not found"):
        AID(tmp_path)


def test_transforms(served, tmp_path):
    dataset = AID(tmp_path / "root", transforms=lambda s: {**s, "image": s["image"] / 255}, download=True)
    assert dataset[0]["image"].max() <= 1


def test_plot(served, tmp_path):
    import matplotlib.pyplot as plt

    dataset = AID(tmp_path / "root", download=True)
    figure = dataset.plot(dataset[0] | {"prediction": torch.tensor(1)}, suptitle="Test")
    assert figure.axes[0].get_title() == "Label: Beach\nPrediction: Forest"
    assert figure.get_suptitle() == "Test"
    assert dataset.plot(dataset[0], show_titles=False).axes[0].get_title() == ""
    plt.close("all")
