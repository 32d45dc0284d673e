"""The examples of CONTRIBUTING.md work as they stand there."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from helpers.project_files import ROOT

from rsdistill import create_codec, create_distiller, list_codecs, list_datasets, list_distillers, load_dataset
from rsdistill.codecs import CODECS
from rsdistill.datasets import DATASETS
from rsdistill.distillers import DISTILLERS
from rsdistill.errors import UnknownNameError
from rsdistill.testing import check_codec, check_dataset, check_distiller


@pytest.fixture(scope="module", autouse=True)
def examples():
    """Run the examples; forget what they registered."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    names: dict[str, object] = {"__name__": "contributing"}
    with DATASETS.temporary(), DISTILLERS.temporary(), CODECS.temporary():
        for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
            exec(compile(block, "CONTRIBUTING.md", "exec"), names)
        yield


def test_examples_are_listed():
    assert "stripes" in list_datasets()
    assert "class-mean" in list_distillers()
    assert "pool" in list_codecs()


def test_examples_keep_their_contracts_and_go_through_a_run():
    check_dataset("stripes", {"per_class": 6})
    check_distiller("class-mean")
    check_codec("pool")


def test_example_distiller_makes_class_means():
    data = load_dataset("stripes", per_class=10)
    made = create_distiller("class-mean", noise=0.0).fit(data).distill(3, seed=1)
    assert made.label.tolist() == [0, 0, 0, 1, 1, 1]
    mean = data.train.images(np.flatnonzero(data.train.labels == 1)).mean(axis=0)
    np.testing.assert_allclose(made.image[3], mean, atol=1.0)


def test_example_codec_keeps_block_means():
    data = load_dataset("stripes", per_class=4)
    codec = create_codec("pool", data.bands, block=4).fit(data)
    images = torch.from_numpy(data.train.images().astype(np.float32))
    pool = torch.nn.AvgPool2d(4)
    torch.testing.assert_close(pool(codec.decode(codec.encode(images))), pool(images))
    assert 0 < codec.figures(data)["psnr"] < 40


def test_misspelt_option_of_an_example_is_refused():
    with pytest.raises(UnknownNameError, match="did you mean 'noise'"):
        create_distiller("class-mean", nois=0.1)
