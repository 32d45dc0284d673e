"""Students take any number of bands, learn, and are the same for the same seed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.coloured_scenes import coloured_data, real_set

from rsdistill.errors import OptionError, UnknownNameError
from rsdistill.evaluation import Recipe, evaluate_student, predict, train_student
from rsdistill.imaging.normalisation import StandardNormalisation
from rsdistill.imaging.pixels import augmented
from rsdistill.models.networks import STUDENTS
from rsdistill.training.trainer import TrainerOptions, step_generator

QUIET = TrainerOptions(accelerator="cpu", progress=False)
RECIPE = Recipe(steps=25, batch=12, size=8, student_options={"blocks": 2, "width": 16}, lr=1e-2)
DATA = coloured_data()
NORMALISATION = StandardNormalisation.of(torch.from_numpy(DATA.train.images().astype(np.float32)))


def train(recipe=RECIPE, seed=0, soft=None, ipc=4):
    tiles = real_set(DATA, ipc)
    return train_student(tiles.image, tiles.label, soft, recipe, 3, seed, NORMALISATION, QUIET)


def weights(student):
    return torch.cat([p.detach().flatten() for p in student.parameters()])


@pytest.mark.parametrize("name", STUDENTS.names())
@pytest.mark.parametrize(("bands", "size"), [(1, 16), (13, 32), (3, 72)])
def test_every_student_takes_any_bands_and_sizes(name, bands, size):
    network = STUDENTS.create(name, bands=bands, classes=7, size=size).eval()
    for side in (size, size + 9):
        assert network(torch.randn(2, bands, side, side)).shape == (2, 7)
    network(torch.randn(2, bands, size, size)).sum().backward()
    assert all(p.grad is not None for p in network.parameters())


def test_small_chips_get_a_stem_that_keeps_their_size():
    small, large = (STUDENTS.create("resnet18", bands=4, classes=2, size=size) for size in (64, 65))
    chips = torch.randn(1, 4, 64, 64)
    assert small.maxpool(small.conv1(chips)).shape[-1] == 64
    assert large.maxpool(large.conv1(chips)).shape[-1] == 16


def test_a_student_learns_and_takes_chips_in_sensor_units():
    student = train()
    scores = evaluate_student(student, DATA.test.images(), DATA.test.labels)
    assert scores.oa > 0.9 and scores.kappa > 0.85
    # Chips of another size are brought to the size of training.
    doubled = DATA.test.images().repeat(2, axis=2).repeat(2, axis=3)
    np.testing.assert_array_equal(predict(student, doubled), predict(student, DATA.test.images()))
    assert not student.training


def test_equal_seeds_give_equal_students_and_others_do_not():
    before = torch.random.get_rng_state()
    first, again, other = train(), train(), train(seed=1)
    assert torch.equal(weights(first), weights(again))
    assert not torch.equal(weights(first), weights(other))
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize(
    "change", [{"augment": False}, {"lr": 1e-4}, {"weight_decay": 5.0}, {"batch": 3}, {"steps": 5}], ids=str
)
def test_every_option_of_the_recipe_has_an_effect(change):
    short = replace(RECIPE, steps=10)
    assert not torch.equal(weights(train(short)), weights(train(replace(short, **change))))


def test_soft_labels_are_learnt_only_if_the_recipe_says_so():
    tiles = real_set(DATA, 4)
    # Soft labels that say the next class, so that learning them shows.
    wrong = np.eye(3, dtype=np.float32)[(tiles.label + 1) % 3]
    truth = DATA.test.labels
    assert evaluate_student(train(soft=wrong), DATA.test.images(), (truth + 1) % 3).oa > 0.9
    ignored = train(replace(RECIPE, soft=False), soft=wrong)
    assert torch.equal(weights(ignored), weights(train()))


def test_one_hot_soft_labels_equal_hard_ones():
    tiles = real_set(DATA, 4)
    soft = np.eye(3, dtype=np.float32)[tiles.label]
    torch.testing.assert_close(weights(train(soft=soft)), weights(train()), rtol=1e-3, atol=1e-4)


def test_native_size_is_kept_where_the_recipe_says_so():
    assert evaluate_student(train(replace(RECIPE, size=None)), DATA.test.images(), DATA.test.labels).oa > 0.9


def test_what_cannot_be_trained_is_refused():
    tiles = real_set(DATA, 2)
    for images, labels in (
        (tiles.image[:0], tiles.label[:0]),
        (tiles.image, tiles.label[:2]),
        (tiles.image, tiles.label + 1),
    ):
        with pytest.raises(OptionError, match="one label below 3"):
            train_student(images, labels, None, RECIPE, 3, 0, NORMALISATION, QUIET)
    with pytest.raises(OptionError, match="fewer blocks"):
        train(replace(RECIPE, student_options={"blocks": 4}))
    with pytest.raises(UnknownNameError, match="did you mean 'blocks'"):
        train(replace(RECIPE, student_options={"block": 4}))
    with pytest.raises(OptionError, match="'bands' of student 'convnet' follows from the data"):
        train(replace(RECIPE, student_options={"bands": 4}))
    with pytest.raises(OptionError, match="no images to score"):
        evaluate_student(train(replace(RECIPE, steps=1)), tiles.image[:0], tiles.label[:0])


def test_augmentation_without_brightness_or_shift_is_a_symmetry_of_the_square():
    images = torch.randn(64, 2, 6, 6)  # too small to shift
    found = augmented(images, step_generator(0))
    symmetries = [torch.rot90(v, k, (2, 3)) for v in (images, images.flip(3)) for k in range(4)]
    errors = torch.stack([spread_within(found - symmetry) for symmetry in symmetries])
    assert errors.amin(0).max() < 1e-5
    # All eight occur, and so do several levels of brightness.
    assert set(errors.argmin(0).tolist()) == set(range(8))
    assert (found.mean((1, 2, 3)) - images.mean((1, 2, 3))).std() > 0.1


def spread_within(images):
    """Largest deviation (n,) from each image's own mean."""
    return (images - images.mean((1, 2, 3), keepdim=True)).abs().amax((1, 2, 3))


def test_augmentation_shifts_with_reflected_borders():
    ramp = torch.arange(16.0).expand(40, 1, 16, 16).contiguous()
    found = augmented(ramp, step_generator(1))
    # Neighbouring values of a ramp differ by 1, also across a reflected border, or not at all along it.
    steps = found.diff(dim=3).abs()
    assert torch.allclose(steps * (steps - 1), torch.zeros(()), atol=1e-4)
    assert len({round(float(row.max() - row.min()), 3) for row in found}) > 1


def test_augmentation_keeps_shape_of_chips_that_are_not_square_and_repeats_by_seed():
    images = torch.randn(5, 3, 8, 12)
    first, again = (augmented(images, step_generator(3, 4)) for _ in range(2))
    assert first.shape == images.shape and torch.equal(first, again)
    assert not torch.equal(first, augmented(images, step_generator(3, 5)))


@pytest.mark.parametrize(
    "option", [{"steps": 0}, {"batch": 0}, {"size": 1}, {"lr": 0.0}, {"weight_decay": -1.0}, {"full_steps": 0}]
)
def test_values_out_of_range_are_refused(option):
    with pytest.raises(OptionError, match=next(iter(option))):
        Recipe.of(option)


def test_recipes_come_from_options_by_name():
    assert Recipe.of(None) == Recipe() and Recipe.of(RECIPE) is RECIPE
    assert Recipe.of(RECIPE.to_dict()) == RECIPE
    with pytest.raises(UnknownNameError, match="did you mean 'steps'"):
        Recipe.of({"step": 3})
