"""Training curves: every logged figure is drawn where it belongs."""

from __future__ import annotations

import pytest

from rsdistill.errors import OptionError
from rsdistill.report import training_curves

LONG = list(range(20, 2020, 20))
LOGS = {
    "teacher": {"loss": ([20, 40], [1.0, 0.5])},
    "train": {
        "denoising": (LONG, [1.0 / (1 + step) for step in LONG]),
        "val_denoising": ([250, 500], [0.7, 0.6]),
        "val_teacher_oa_0.50_to_0.75": ([250, 500], [0.25, 0.5]),
    },
    "empty": {},
}


def test_losses_and_accuracies_are_drawn_by_stage():
    axes = training_curves(LOGS).axes
    assert [each.get_title(loc="left") for each in axes] == [
        "teacher: loss", "", "train: loss", "train: accuracy, %",
    ]  # fmt: skip
    losses = {line.get_label(): line for line in axes[2].lines}
    assert list(losses["val denoising"].get_ydata()) == [0.7, 0.6]
    smooth = losses["denoising"]
    assert len(smooth.get_xdata()) == len(LONG) - 8 and smooth.get_xdata()[0] == LONG[4]
    assert smooth.get_ydata()[0] == pytest.approx(sum(1.0 / (1 + step) for step in LONG[:9]) / 9)
    (share,) = axes[3].lines
    assert list(share.get_ydata()) == [25.0, 50.0] and list(share.get_xdata()) == [250, 500]


def test_without_a_log_there_is_nothing_to_draw():
    with pytest.raises(OptionError, match="no stage has a training log"):
        training_curves({"train": {}})
