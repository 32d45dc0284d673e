"""Fits: batches from seed and step, a kill that leaves no trace, checkpoints that are whole or refused."""

from __future__ import annotations

from dataclasses import replace

import lightning
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rsdistill.errors import ArtifactError, DeviceError, OptionError
from rsdistill.training import callbacks as training_callbacks
from rsdistill.training.callbacks import StepMonitor, training_log
from rsdistill.training.trainer import (
    CHECKPOINT,
    StepBatches,
    TrainerOptions,
    derived_seed,
    fit,
    resolve_device,
    step_generator,
)

STEPS = 12


def batches(length=10, size=4, seed=0):
    return StepBatches(lambda positions: positions.float()[:, None], length, size, seed)


class Line(lightning.LightningModule):
    """A line fitted with random noise, a schedule and a moving average; it can fail at a step."""

    def __init__(self, fail_at=None, error=RuntimeError):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(3)
            self.line = torch.nn.Linear(1, 1)
        self.average = torch.optim.swa_utils.AveragedModel(
            self.line, avg_fn=lambda held, new, _: 0.9 * held + 0.1 * new
        )
        self.fail_at, self.error, self.seen, self.rates = fail_at, error, [], []

    def training_step(self, batch, _):
        if self.global_step == self.fail_at:
            raise self.error("killed")
        self.seen.append(batch[:, 0].tolist())
        self.rates.append(self.optimizers().param_groups[0]["lr"])
        noise = torch.randn(batch.shape, generator=step_generator(0, self.global_step))
        return (self.line(batch) - batch * 3.0 + noise).square().mean()

    def optimizer_step(self, *args, **kwargs):
        super().optimizer_step(*args, **kwargs)
        self.average.update_parameters(self.line)

    def configure_optimizers(self):
        optimiser = torch.optim.AdamW(self.line.parameters(), 0.1)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 0.1, total_steps=STEPS + 1)
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def same_weights(one, other):
    pairs = zip(one.state_dict().items(), other.state_dict().items(), strict=True)
    return all(a == b and torch.equal(x, y) for (a, x), (b, y) in pairs)


@given(length=st.integers(1, 40), size=st.integers(1, 50), seed=st.integers(0, 5))
@settings(max_examples=30, deadline=None)
def test_every_item_comes_once_a_lap(length, size, seed):
    source = batches(length, size, seed)
    laps = 3
    drawn = torch.cat([source.positions(step) for step in range(laps * length // source.batch_size)])
    for lap in range(len(drawn) // length):
        assert sorted(drawn[lap * length : (lap + 1) * length].tolist()) == list(range(length))


@given(step=st.integers(0, 100))
@settings(max_examples=20, deadline=None)
def test_a_batch_depends_on_seed_and_step_alone(step):
    walked = batches(seed=1)
    for earlier in range(step):
        walked.positions(earlier)
    assert torch.equal(walked.positions(step), batches(seed=1).positions(step))


def test_other_seeds_and_laps_give_other_orders():
    def order(seed, lap):
        return batches(100, 100, seed).positions(lap).tolist()

    assert len({tuple(order(seed, lap)) for seed in (0, 1) for lap in (0, 1)}) == 4


def test_batches_iterate_from_their_start():
    source = batches()
    source.start = 5
    assert torch.equal(next(iter(source))[:, 0].long(), source.positions(5))


@pytest.mark.parametrize(("length", "size"), [(0, 4), (4, 0)])
def test_batches_of_nothing_are_refused(length, size):
    with pytest.raises(OptionError, match="1 or more"):
        batches(length, size)


def test_derived_seeds_do_not_collide_by_addition():
    seeds = {derived_seed(a, b) for a in range(20) for b in range(20)}
    assert len(seeds) == 400 and all(0 <= seed < 2**63 for seed in seeds)


def test_a_killed_fit_ends_like_an_undisturbed_one(tmp_path, quiet):
    undisturbed = Line()
    fit(undisturbed, batches(), STEPS, tmp_path / "whole", quiet)
    every_step = replace(quiet, checkpoint_seconds=0.0)
    killed = Line(fail_at=7)
    with pytest.raises(RuntimeError, match="killed"):
        fit(killed, batches(), STEPS, tmp_path / "killed", every_step)
    resumed = Line()
    fit(resumed, batches(), STEPS, tmp_path / "killed", every_step)
    assert len(killed.seen) == 7 and killed.seen + resumed.seen == undisturbed.seen
    assert killed.rates + resumed.rates == undisturbed.rates
    assert same_weights(resumed, undisturbed)
    assert not same_weights(resumed.line, resumed.average.module)
    assert sorted(path.name for path in (tmp_path / "killed").glob("*.ckpt")) == [CHECKPOINT]


def test_a_fit_killed_between_checkpoints_repeats_the_steps_lost(tmp_path, quiet, monkeypatch):
    undisturbed = Line()
    fit(undisturbed, batches(), STEPS, None, quiet)
    clock = iter(range(1000))
    monkeypatch.setattr(training_callbacks.time, "monotonic", lambda: next(clock))
    with pytest.raises(RuntimeError, match="killed"):
        fit(Line(fail_at=8), batches(), STEPS, tmp_path, replace(quiet, checkpoint_seconds=3.0))
    resumed = Line()
    fit(resumed, batches(), STEPS, tmp_path, quiet)
    assert STEPS - 8 < len(resumed.seen) < STEPS
    assert same_weights(resumed, undisturbed)


def test_a_finished_fit_is_not_trained_further(tmp_path, quiet):
    first, again = Line(), Line()
    fit(first, batches(), STEPS, tmp_path, quiet)
    fit(again, batches(), STEPS, tmp_path, quiet)
    assert not again.seen and same_weights(first, again)


def test_a_checkpoint_is_replaced_only_by_a_whole_one(tmp_path, quiet, monkeypatch):
    every_step = replace(quiet, checkpoint_seconds=0.0)
    with pytest.raises(RuntimeError, match="killed"):
        fit(Line(fail_at=3), batches(), STEPS, tmp_path, every_step)
    before = (tmp_path / CHECKPOINT).read_bytes()

    def broken(_, path, *args, **kwargs):
        path.write_bytes(b"half")
        raise RuntimeError("power cut")

    monkeypatch.setattr(lightning.Trainer, "save_checkpoint", broken)
    with pytest.raises(RuntimeError, match="power cut"):
        fit(Line(), batches(), STEPS, tmp_path, every_step)
    assert (tmp_path / CHECKPOINT).read_bytes() == before


def test_an_interrupt_by_the_user_comes_through(tmp_path, quiet):
    with pytest.raises(KeyboardInterrupt):
        fit(Line(fail_at=2, error=KeyboardInterrupt), batches(), STEPS, tmp_path, quiet)


def test_a_damaged_checkpoint_is_named(tmp_path, quiet):
    fit(Line(), batches(), STEPS, tmp_path, quiet)
    path = tmp_path / CHECKPOINT
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ArtifactError, match=f"{CHECKPOINT} cannot be read.*delete it"):
        fit(Line(), batches(), STEPS, tmp_path, quiet)


def test_a_checkpoint_of_another_model_is_named(tmp_path, quiet):
    fit(Line(), batches(), STEPS, tmp_path, quiet)
    other = Line()
    other.line = torch.nn.Linear(1, 2)
    with pytest.raises(ArtifactError, match=f"{CHECKPOINT} is of another model.*delete it"):
        fit(other, batches(), STEPS, tmp_path, quiet)


class Pieces(Line):
    """The same line, which takes each batch in parts: loss and gradient are those of the whole batch."""

    def __init__(self, parts, **options):
        super().__init__(**options)
        self.parts, self.part, self.steps = parts, 0, []

    def training_step(self, batch, _):
        if self.global_step == self.fail_at and self.part == 1:
            raise self.error("killed")
        noise = torch.randn(batch.shape, generator=step_generator(0, self.global_step))
        error = (self.line(batch) - batch * 3.0 + noise).square()
        piece = error.tensor_split(self.parts)[self.part]
        loss = piece.sum() * self.parts / len(batch)
        self.part += 1
        self.log("loss", error.mean())
        return loss

    def optimizer_step(self, *args, **kwargs):
        super().optimizer_step(*args, **kwargs)
        self.part = 0
        self.steps.append(self.global_step)


@pytest.mark.parametrize("parts", [2, 3])
def test_parts_of_a_batch_step_like_the_whole(quiet, tmp_path, parts):
    whole, pieces = Line(), Pieces(parts)
    fit(whole, batches(), STEPS, None, quiet)
    fit(pieces, batches(), STEPS, tmp_path, quiet, accumulate=parts)
    assert len(pieces.steps) == STEPS
    for one, other in zip(whole.parameters(), pieces.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_a_fit_in_parts_killed_within_a_step_ends_like_an_undisturbed_one(quiet, tmp_path):
    every_step = replace(quiet, checkpoint_seconds=0.0)
    whole = Pieces(3)
    fit(whole, batches(), STEPS, tmp_path / "whole", quiet, accumulate=3)
    with pytest.raises(RuntimeError, match="killed"):
        fit(Pieces(3, fail_at=7), batches(), STEPS, tmp_path / "killed", every_step, accumulate=3)
    with pytest.raises(ArtifactError, match=r"took batches in 3 part\(s\); go on so, or delete it"):
        fit(Pieces(2), batches(), STEPS, tmp_path / "killed", every_step, accumulate=2)
    resumed = Pieces(3)
    fit(resumed, batches(), STEPS, tmp_path / "killed", every_step, accumulate=3)
    assert same_weights(resumed, whole) and len(resumed.steps) == STEPS - 7
    assert training_log(tmp_path / "killed" / "log") == training_log(tmp_path / "whole" / "log")


class Logged(Line):
    def training_step(self, batch, index):
        loss = super().training_step(batch, index)
        self.log("loss", loss)
        return loss


def test_monitors_come_at_their_steps_and_at_the_end_and_leave_a_log(quiet, tmp_path):
    seen = []

    def look(step):
        seen.append(step)
        return {"seen": step / 2}

    fit(Logged(), batches(), STEPS, tmp_path, quiet, monitors=[StepMonitor(5, look)])
    assert seen == [5, 10, STEPS]
    log = training_log(tmp_path / "log")
    assert log["seen"] == ([5, 10, STEPS], [2.5, 5.0, STEPS / 2])
    assert log["loss"][0] == list(range(1, STEPS + 1))
    assert training_log(tmp_path / "nowhere") == {}


@pytest.mark.parametrize("kills", [[7], [4, 5], [7, 7], [1, 10, 11]])
def test_the_log_of_a_killed_fit_is_that_of_an_undisturbed_one(quiet, tmp_path, monkeypatch, kills):
    clock = iter(range(10_000))
    monkeypatch.setattr(training_callbacks.time, "monotonic", lambda: next(clock))
    seldom = replace(quiet, checkpoint_seconds=3.0)

    def train(folder, fail_at=None):
        fit(
            Logged(fail_at=fail_at),
            batches(),
            STEPS,
            tmp_path / folder,
            seldom,
            monitors=[StepMonitor(2, lambda s: {"s": s})],
        )

    train("whole")
    for fail_at in kills:
        with pytest.raises(RuntimeError, match="killed"):
            train("killed", fail_at)
    train("killed")
    assert training_log(tmp_path / "killed" / "log") == training_log(tmp_path / "whole" / "log")


def test_a_damaged_log_is_named(tmp_path):
    path = tmp_path / "from_step_0" / "metrics.csv"
    path.parent.mkdir()
    path.write_text("loss,stop\n1.0,3\n")
    with pytest.raises(ArtifactError, match=r"metrics\.csv cannot be read as a training log"):
        training_log(tmp_path)


@pytest.mark.skipif(torch.accelerator.is_available(), reason="this machine has an accelerator")
def test_a_missing_accelerator_is_refused():
    with pytest.raises(DeviceError, match="accelerator=gpu"):
        fit(Line(), batches(), 1, None, TrainerOptions(accelerator="gpu", progress=False))
    with pytest.raises(DeviceError, match="'gpu' is not available.*choose 'auto' or 'cpu'"):
        resolve_device(TrainerOptions(accelerator="gpu"))


@pytest.mark.parametrize("wrong", [{"accelerator": "abacus"}, {"precision": "7-bit"}, {"strategy": "guess"}])
def test_unknown_trainer_options_are_refused(quiet, wrong):
    with pytest.raises(DeviceError, match=next(iter(wrong.values()))):
        fit(Line(), batches(), 1, None, replace(quiet, **wrong))


def test_inference_runs_on_the_device_asked_for():
    assert resolve_device(TrainerOptions(accelerator="cpu")) == torch.device("cpu")
    assert resolve_device().type in ("cpu", "cuda", "mps", "xpu")


@pytest.mark.parametrize(
    ("there", "choice", "found"),
    [
        (None, "auto", "cpu"),
        ("cuda", "auto", "cuda"),
        ("cuda", "cpu", "cpu"),
        ("cuda", "gpu", "cuda"),
        ("cuda", "cuda", "cuda"),
        ("mps", "auto", "mps"),
        ("mps", "gpu", "mps"),
        ("mps", "cuda", None),
        ("xpu", "gpu", "xpu"),
        (None, "gpu", None),
        (None, "cuda", None),
        ("cuda", "abacus", None),
    ],
)
def test_the_device_is_the_one_there_is_of_the_kind_asked_for(monkeypatch, there, choice, found):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: there is not None)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: there and torch.device(there))
    if found is not None:
        assert resolve_device(TrainerOptions(accelerator=choice)) == torch.device(found)
        return
    with pytest.raises(DeviceError, match=f"'{choice}' is not available on this machine .available: cpu"):
        resolve_device(TrainerOptions(accelerator=choice))


def test_progress_shows_each_step(tmp_path, quiet, capsys):
    fit(Line(), batches(), STEPS, None, replace(quiet, progress=True), label="a line")
    assert "a line" in capsys.readouterr().err
