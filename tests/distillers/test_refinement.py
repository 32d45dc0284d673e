"""Refinement: nearer to the class means step by step, each class by itself, from the tiles as they were generated."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from rsdistill.diffusion.teacher import margin
from rsdistill.distillers import create_distiller, dpd, refinement
from rsdistill.distillers.matching_networks import NetworkOptions, train_matching_networks
from rsdistill.distillers.refinement import RefinementOptions, refine
from rsdistill.errors import CodecError, ModelError
from rsdistill.imaging.pixels import augmented
from rsdistill.training.trainer import step_generator
from rsdistill.utils.options import plain

NETWORKS = NetworkOptions(count=4, min_steps=2, steps=40, size=8, width=16, batch=16, views=2)
OPTIONS = RefinementOptions(steps=30, lr=0.05, networks=NETWORKS)
LABELS = np.array([0, 1, 0, 2, 1, 2, 0])


@pytest.fixture(scope="module")
def networks(tiny_data, quiet):
    return train_matching_networks(tiny_data, NETWORKS, 0, None, quiet)[0]


@pytest.fixture
def start(tiny_latents):
    """Latents of chips of another class than the one asked for."""
    train = tiny_latents.positions("train")
    others = [train[tiny_latents.label[train] == (label + 1) % 3] for label in range(3)]
    chosen = [others[label][place] for place, label in enumerate(LABELS)]
    return tiny_latents.read(np.array(chosen)).mean


@pytest.fixture
def refined(networks, tiny_latents, quiet):
    def run(latents, labels=LABELS, seed=0, folder=None, **options):
        chosen = replace(OPTIONS, **options)
        often = replace(quiet, checkpoint_seconds=0)
        return refine(latents, labels, networks, tiny_latents.codec, chosen, seed, folder, often)

    return run


def gap(latents, networks, codec, label):
    """How far a class's tiles are from its chips on average over all networks and many views."""
    tiles = latents[torch.from_numpy(LABELS == label)].repeat(32, 1, 1, 1)
    seen = augmented(networks.prepare(codec.decode(tiles)), step_generator(5))
    gaps = [(networks.see(n, seen)[0].mean(0) - networks.means(n)[label]).square().sum() for n in range(NETWORKS.count)]
    return float(torch.stack(gaps).mean())


def test_tiles_come_nearer_to_their_class(start, refined, networks, tiny_latents):
    moved = refined(start, cross_entropy_weight=0.0, lr=0.1, steps=80)
    before, after = ([gap(x, networks, tiny_latents.codec, label) for label in range(3)] for x in (start, moved))
    assert sum(after) < 0.8 * sum(before) and all(np.less(after, before))
    assert not start.requires_grad and not moved.requires_grad


def test_the_loss_is_what_it_says(start, networks, tiny_latents):
    options = replace(OPTIONS, cross_entropy_weight=0.3, networks_per_step=2)
    codec, labels = tiny_latents.codec, torch.from_numpy(LABELS)
    module = refinement._Refining(start, labels, networks, codec, options, 9)
    with torch.no_grad():
        module.latents += 0.1
    module.log = lambda *_, **__: None
    numbers = torch.randint(NETWORKS.count, (2,), generator=step_generator(9, 50, 0)).tolist()
    seen, wanted = networks.prepare(codec.decode(start + 0.1)), 0.0
    for turn, number in enumerate(numbers):
        for label in range(3):
            shown = augmented(seen[labels == label], step_generator(9, 51, 0, turn, label))
            features, logits = networks.see(number, shown)
            wanted += (features.mean(0) - networks.means(number)[label]).square().sum() / 2
            if number >= 2:
                mine = torch.full((len(features),), label)
                wanted += 0.3 * F.cross_entropy(logits, mine) / 2
    assert min(numbers) < 2 <= max(numbers)
    torch.testing.assert_close(module.training_step(0, 0).detach(), torch.as_tensor(wanted), rtol=1e-4, atol=1e-5)


def test_networks_and_codec_stay_as_they_are(start, refined, networks, tiny_latents):
    weights = [*networks.state_dict().values(), *tiny_latents.codec.autoencoder().state_dict().values()]
    before = [weight.clone() for weight in weights]
    refined(start, steps=3)
    assert all(torch.equal(a, b) for a, b in zip(before, weights, strict=True))
    frozen = [*networks.parameters(), *tiny_latents.codec.autoencoder().decoder.parameters()]
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


def test_refinement_is_in_full_precision(start, networks, tiny_latents, quiet):
    whole = refine(start, LABELS, networks, tiny_latents.codec, replace(OPTIONS, steps=3), 0, None, quiet)
    options = replace(quiet, precision="bf16-mixed")
    assert torch.equal(
        whole, refine(start, LABELS, networks, tiny_latents.codec, replace(OPTIONS, steps=3), 0, None, options)
    )


def test_short_memory_changes_nothing(start, refined, monkeypatch):
    whole = refined(start, steps=5)
    monkeypatch.setattr(refinement, "_PIXELS", 2 * 16 * 16)
    torch.testing.assert_close(refined(start, steps=5), whole, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("batch", "parts"), [(512, [7]), (5, [2, 5]), (4, [3, 4]), (1, [2, 2, 3])])
def test_parts_hold_whole_classes(start, refined, tiny_latents, monkeypatch, batch, parts):
    decode, seen = tiny_latents.codec.decode, []
    monkeypatch.setattr(tiny_latents.codec, "decode", lambda latents: seen.append(len(latents)) or decode(latents))
    refined(start, batch=batch, steps=1)
    # Classes of 3, 2 and 2 tiles.
    assert sorted(seen) == parts


def test_the_seed_decides(start, refined):
    assert torch.equal(refined(start), refined(start))
    assert not torch.equal(refined(start), refined(start, seed=1))


def test_an_interrupted_refinement_goes_on_where_it_was(start, refined, tiny_latents, tmp_path, monkeypatch):
    whole, decode, steps = refined(start), tiny_latents.codec.decode, []

    def interrupted(latents):
        """Each step decodes once."""
        if len(steps) == 12:
            raise KeyboardInterrupt
        steps.append(len(steps))
        return decode(latents)

    monkeypatch.setattr(tiny_latents.codec, "decode", interrupted)
    with pytest.raises(KeyboardInterrupt):
        refined(start, folder=tmp_path)
    again = []
    monkeypatch.setattr(tiny_latents.codec, "decode", lambda latents: again.append(latents) or decode(latents))
    assert torch.equal(refined(start, folder=tmp_path), whole) and len(again) <= OPTIONS.steps - 11
    # Another start in the same folder is another refinement.
    assert not torch.equal(refined(start + 0.5, folder=tmp_path), whole)


@pytest.fixture(scope="module")
def refining_dpd(tiny_data, tiny_latents, tiny_dpd, quiet):
    options = {"steps": 10, "networks": {"count": 2, "min_steps": 2, "steps": 10, "size": 8, "width": 8}}
    method = create_distiller("dpd", sampling={"steps": 3}, candidates=2, refinement=options, soft_labels={"top_k": 2})
    method.attach(tiny_data, tiny_latents, trainer=quiet)
    method.teacher_, method.model_, method.table_ = tiny_dpd.teacher_, tiny_dpd.model_, tiny_dpd.table_
    return method


def test_dpd_refines_what_it_chose(refining_dpd, tiny_dpd, tmp_path, monkeypatch):
    assert [step.name for step in tiny_dpd.steps()] == ["teacher", "train"]
    *before, networks = refining_dpd.steps()
    assert [step.name for step in before] == ["teacher", "train"] and networks.name == "matching_networks"
    with pytest.raises(ModelError, match="not fitted"):
        refining_dpd.distill(2)
    assert set(networks.fit(None)) == {"val_oa_first", "val_oa_last"}
    results = []
    monkeypatch.setattr(dpd, "refine", lambda *given: results.append(refine(*given)) or results[-1])
    made, unrefined = refining_dpd.distill(2), tiny_dpd.distill(2)
    wanted = margin(tiny_dpd.teacher_(results[0]), torch.from_numpy(made.label))
    np.testing.assert_allclose(made.score, wanted.numpy(), rtol=1e-4, atol=1e-4)
    assert np.array_equal(made.label, unrefined.label) and made.caption == unrefined.caption
    changed = np.abs(made.image.astype(float) - unrefined.image).mean()
    assert 0 < changed < 0.2 * unrefined.image.std()
    assert made.manifest["options"]["refinement"]["steps"] == 10
    networks.save(tmp_path)
    networks.load(tmp_path)
    assert refining_dpd.distill(2) == made
    # Replacements are as they were generated.
    positions = np.array([1, 3])
    assert np.array_equal(refining_dpd.redraw(2, 0, positions, 1).image, tiny_dpd.redraw(2, 0, positions, 1).image)


def test_dpd_herds_among_the_candidates_of_a_class(refining_dpd, tiny_data, tiny_latents, tiny_dpd, quiet):
    networks = refining_dpd.refinement.networks
    options = {"selection": {"kind": "herding"}, "refinement": {"networks": plain(networks)}, "candidates": 4}
    method = create_distiller("dpd", sampling={"steps": 3}, **options)
    method.attach(tiny_data, tiny_latents, trainer=quiet)
    method.teacher_, method.model_ = tiny_dpd.teacher_, tiny_dpd.model_
    step = method.steps()[-1]
    assert step.name == "matching_networks"
    step.fit(None)
    made = method.distill(2)
    again = method.redraw(2, 0, np.array([1, 4]), 1)
    assert made.label.tolist() == [0, 0, 1, 1, 2, 2] and again.label.tolist() == [0, 2]
    names = [info.name for info in tiny_data.classes]
    assert all(names[label] in text for label, text in zip(made.label, made.caption, strict=True))
    assert method.distill(2) == made and not np.array_equal(again.image, made.image[[1, 4]])
