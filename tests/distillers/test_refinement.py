"""Refinement: nearer to the class means step by step, each class by itself, from the tiles as they were generated."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from rsdistill.diffusion.teacher import margin
from rsdistill.distillers import create_distiller, dpd, refinement
from rsdistill.distillers.matching_networks import ObserverOptions, train_observers
from rsdistill.distillers.refinement import RefinementOptions, refine
from rsdistill.errors import CodecError, ModelError
from rsdistill.imaging.augmentation import augmented
from rsdistill.training.trainer import step_generator

OBSERVERS = ObserverOptions(count=4, youngest=2, steps=40, size=8, width=16, batch=16, views=2)
OPTIONS = RefinementOptions(steps=30, lr=0.05, observers=OBSERVERS)
LABELS = np.array([0, 1, 0, 2, 1, 2, 0])


@pytest.fixture(scope="module")
def observers(tiny_data, quiet):
    return train_observers(tiny_data, OBSERVERS, 0, None, quiet)[0]


@pytest.fixture
def start(tiny_latents):
    """Latents of chips of another class than the one asked for."""
    train = tiny_latents.positions("train")
    others = [train[tiny_latents.label[train] == (label + 1) % 3] for label in range(3)]
    chosen = [others[label][place] for place, label in enumerate(LABELS)]
    return tiny_latents.read(np.array(chosen)).mean


@pytest.fixture
def refined(observers, tiny_latents, quiet):
    def run(latents, labels=LABELS, seed=0, folder=None, **options):
        chosen = replace(OPTIONS, **options)
        often = replace(quiet, checkpoint_seconds=0)
        return refine(latents, labels, observers, tiny_latents.codec, chosen, seed, folder, often)

    return run


def gap(latents, observers, codec, label):
    """How far a class's tiles are from its chips on average over all observers and many views."""
    tiles = latents[torch.from_numpy(LABELS == label)].repeat(32, 1, 1, 1)
    seen = augmented(observers.see(codec.decode(tiles)), step_generator(5))
    means = [observers.features(n, seen).mean(0) for n in range(OBSERVERS.count)]
    pairs = zip(means, observers.means, strict=True)
    return float(
        torch.stack([(mean - every[label]).square().mean() / every.var(0).mean() for mean, every in pairs]).mean()
    )


def test_tiles_come_nearer_to_their_class(start, refined, observers, tiny_latents):
    moved = refined(start, label=0.0, lr=0.1, steps=80)
    before, after = ([gap(x, observers, tiny_latents.codec, label) for label in range(3)] for x in (start, moved))
    assert sum(after) < 0.8 * sum(before) and all(np.less(after, before))
    assert not start.requires_grad and not moved.requires_grad


def test_the_loss_is_what_it_says(start, observers, tiny_latents):
    options = replace(OPTIONS, label=0.3, looks=2)
    codec, labels = tiny_latents.codec, torch.from_numpy(LABELS)
    module = refinement._Refining(start, labels, observers, codec, options, 9)
    with torch.no_grad():
        module.latents += 0.1
    module.log = lambda *_, **__: None
    numbers = torch.randint(OBSERVERS.count, (2,), generator=step_generator(9, 50, 0)).tolist()
    seen, wanted = observers.see(codec.decode(start + 0.1)), 0.0
    for look, number in enumerate(numbers):
        means = observers.means[number]
        for label in range(3):
            shown = augmented(seen[labels == label], step_generator(9, 51, 0, look, label))
            features = observers.features(number, shown)
            wanted += (features.mean(0) - means[label]).square().mean() / means.var(0).mean() / 2
            if number >= 2:
                mine = torch.full((len(features),), label)
                wanted += 0.3 * F.cross_entropy(observers.logits(number, features), mine) / 2
    assert min(numbers) < 2 <= max(numbers)
    torch.testing.assert_close(module.training_step(0, 0).detach(), torch.as_tensor(wanted), rtol=1e-4, atol=1e-5)


def test_observers_and_codec_stay_as_they_are(start, refined, observers, tiny_latents):
    weights = [*observers.state_dict().values(), *tiny_latents.codec.autoencoder().state_dict().values()]
    before = [weight.clone() for weight in weights]
    refined(start, steps=3)
    assert all(torch.equal(a, b) for a, b in zip(before, weights, strict=True))
    frozen = [*observers.parameters(), *tiny_latents.codec.autoencoder().decoder.parameters()]
    assert not any(weight.requires_grad for weight in frozen)


def test_classes_do_not_influence_each_other(start, refined):
    whole = refined(start)
    torch.testing.assert_close(refined(start, batch=1), whole, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(refined(start, batch=5), whole, rtol=1e-4, atol=1e-4)
    alone = torch.from_numpy(LABELS == 1)
    torch.testing.assert_close(refined(start[alone], LABELS[LABELS == 1]), whole[alone], rtol=1e-4, atol=1e-4)


def test_a_codec_without_gradients_is_an_error(start, refined, tiny_latents, monkeypatch):
    monkeypatch.setattr(tiny_latents.codec, "decode", torch.no_grad()(tiny_latents.codec.decode))
    with pytest.raises(CodecError, match=r"without a gradient.*refinement\.steps to 0"):
        refined(start)


def test_refinement_is_in_full_precision(start, observers, tiny_latents, quiet):
    whole = refine(start, LABELS, observers, tiny_latents.codec, replace(OPTIONS, steps=3), 0, None, quiet)
    options = replace(quiet, precision="bf16-mixed")
    assert torch.equal(
        whole, refine(start, LABELS, observers, tiny_latents.codec, replace(OPTIONS, steps=3), 0, None, options)
    )


def test_short_memory_changes_nothing(start, refined, monkeypatch):
    whole = refined(start, steps=5)
    monkeypatch.setattr(refinement, "_PIXELS", 2 * 16 * 16)
    torch.testing.assert_close(refined(start, steps=5), whole, rtol=1e-4, atol=1e-4)


def test_parts_hold_whole_classes():
    parts = [part.tolist() for part in refinement._parts(LABELS, 5)]
    assert parts == [[0, 2, 6, 1, 4], [3, 5]]
    assert [len(part) for part in refinement._parts(LABELS, 1)] == [3, 2, 2]


def test_the_seed_decides(start, refined):
    assert torch.equal(refined(start), refined(start))
    assert not torch.equal(refined(start), refined(start, seed=1))


def test_an_interrupted_refinement_goes_on_where_it_was(start, refined, tmp_path, monkeypatch):
    whole, step = refined(start), refinement._Refining.training_step

    def interrupted(module, *batch):
        if module.global_step == 12:
            raise KeyboardInterrupt
        return step(module, *batch)

    monkeypatch.setattr(refinement._Refining, "training_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        refined(start, folder=tmp_path)
    steps = []
    monkeypatch.setattr(
        refinement._Refining, "training_step", lambda module, *b: steps.append(module.global_step) or step(module, *b)
    )
    assert torch.equal(refined(start, folder=tmp_path), whole) and steps[0] >= 11
    # Another start in the same folder is another refinement.
    assert not torch.equal(refined(start + 0.5, folder=tmp_path), whole)


@pytest.fixture(scope="module")
def refining_dpd(tiny_data, tiny_latents, tiny_dpd, quiet):
    options = {"steps": 10, "observers": {"count": 2, "youngest": 2, "steps": 10, "size": 8, "width": 8}}
    method = create_distiller("dpd", sampling={"steps": 3}, candidates=2, refinement=options, soft_labels={"top": 2})
    method.attach(tiny_data, tiny_latents)
    method.teacher_, method.model_ = tiny_dpd.teacher_, tiny_dpd.model_
    method.use_prototypes(2, tiny_dpd.find_prototypes(2))
    return method


def test_dpd_refines_what_it_chose(refining_dpd, tiny_dpd, quiet, tmp_path, monkeypatch):
    assert refining_dpd.fit_stages == ("teacher", "train", "observers") and tiny_dpd.fit_stages == ("teacher", "train")
    with pytest.raises(ModelError, match="no observers"):
        refining_dpd.distill(2)
    figures = refining_dpd.fit_stage("observers", None, quiet)
    assert set(figures) == {"val_oa_youngest", "val_oa_oldest"}
    results = []
    monkeypatch.setattr(dpd, "refine", lambda *given: results.append(refine(*given)) or results[-1])
    made, plain = refining_dpd.distill(2), tiny_dpd.distill(2)
    wanted = margin(tiny_dpd.teacher_(results[0]), torch.from_numpy(made.label))
    np.testing.assert_allclose(made.score, wanted.numpy(), rtol=1e-4, atol=1e-4)
    assert np.array_equal(made.label, plain.label) and made.caption == plain.caption
    changed = np.abs(made.image.astype(float) - plain.image).mean()
    assert 0 < changed < 0.2 * plain.image.std()
    assert made.manifest["options"]["refinement"]["steps"] == 10
    refining_dpd.save_stage("observers", tmp_path / "observers")
    refining_dpd.load_stage("observers", tmp_path / "observers", quiet)
    assert refining_dpd.distill(2) == made
    # Replacements are as they were generated.
    positions = np.array([1, 3])
    assert np.array_equal(refining_dpd.redraw(2, 0, positions, 1).image, tiny_dpd.redraw(2, 0, positions, 1).image)
