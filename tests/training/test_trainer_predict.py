"""Prediction: every batch once, undivided, and its progress shown; two processes are tried by the captioner's tests."""

from __future__ import annotations

from dataclasses import replace

import lightning
import pytest

from rsdistill.errors import DeviceError
from rsdistill.training.trainer import predict


class Seer(lightning.LightningModule):
    """Remembers what it was given."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def predict_step(self, batch, *_):
        self.seen.append(batch)


def test_every_batch_comes_once_and_whole(quiet):
    seer = Seer()
    predict(seer, [[3, 1], [4, 1, 5], [9]], quiet)
    assert seer.seen == [[3, 1], [4, 1, 5], [9]]


def test_without_batches_nothing_is_asked(quiet):
    seer = Seer()
    predict(seer, [], quiet)
    assert not seer.seen


def test_progress_counts_batches(quiet, capsys):
    predict(Seer(), [[1], [2]], replace(quiet, progress=True), label="looking")
    shown = capsys.readouterr().err
    assert "looking" in shown and "/2" in shown


def test_devices_that_are_not_there_are_refused(quiet):
    with pytest.raises(DeviceError, match="accelerator=abacus"):
        predict(Seer(), [[1]], replace(quiet, accelerator="abacus"))
