"""Generation is shared out to processes, and its tiles do not depend on how many there are."""

from __future__ import annotations

import shutil
import subprocess
import sys

import numpy as np
import pytest
from helpers.miniature import CONFIGS, synthetic

from rsdistill.cli.main import main
from rsdistill.distilled import DistilledSet

QUICKSTART = str(CONFIGS / "quickstart.yaml")


def sets(out):
    paths = sorted((out / "quickstart").glob("*_distill/*.nc"))
    return [DistilledSet.load(path) for path in paths]


@pytest.mark.slow
def test_two_processes_draw_the_tiles_that_one_does(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    # Six batches a set, so that each process has some.
    batch = {"distill__options__sampling__batch": 2, "trainer__accelerator": "cpu"}
    assert main(["run", QUICKSTART, "--until", "prototypes", *synthetic(one, **batch)]) == 0
    shutil.copytree(one, two)
    assert main(["run", QUICKSTART, "--until", "distill", *synthetic(one, **batch)]) == 0
    options = synthetic(two, **batch, trainer__devices=2, trainer__strategy="ddp")
    done = subprocess.run(
        [sys.executable, "-m", "rsdistill", "run", QUICKSTART, "--until", "distill", *options],
        check=False, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert len(sets(one)) == len(sets(two)) == 2
    for alone, together in zip(sets(one), sets(two), strict=True):
        assert together.manifest["prototypes"] == alone.manifest["prototypes"]
        difference = np.abs(together.image.astype(float) - alone.image.astype(float)).max()
        low, high = alone.bands.valid_range
        assert difference <= 1e-4 * (high - low)
    assert not (two / "quickstart" / ".work").exists()
