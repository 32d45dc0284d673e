"""The attack finds chips that students learnt by heart, and finds nothing where there is nothing to find."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.planted_scenes import BANDS, CLASSES, NoiseScenes, noise, noise_data, tiles_of
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score, roc_curve

from rsdistill.audit import membership as module
from rsdistill.audit.attack import Attack
from rsdistill.audit.calibration import AuditOptions
from rsdistill.audit.membership import MembershipOptions, confidences, membership
from rsdistill.bands import get_bands
from rsdistill.datasets.base import SceneData, SceneView
from rsdistill.datasets.real_chips import Chips
from rsdistill.distilled import DistilledSet
from rsdistill.errors import ArtifactError, AuditError, BandError, OptionError, UnknownNameError
from rsdistill.training.trainer import TrainerOptions
from rsdistill.utils.options import parse_options
from rsdistill.utils.provenance import REAL

QUIET = TrainerOptions(accelerator="cpu", progress=False)
RECIPE = {"steps": 40, "batch": 32, "size": 8, "student_options": {"blocks": 1, "width": 16}, "lr": 1e-2}
OVERFIT = {**RECIPE, "augment": False}
OPTIONS = {"shadow_sets": 4, "targets": 2, "views": 1}


def real_tiles(view, count=20):
    """The first chips of a view as a coreset."""
    which = np.arange(count)
    manifest = {"method": "random", "digital_source_type": REAL}
    return DistilledSet(view.images(which), view.labels[which], CLASSES, BANDS, 10.0, manifest)


def equal(first, second):
    """Whether two results agree in every score and figure."""
    pairs = [(first.in_view, second.in_view), (first.in_set, second.in_set)]
    scores = [(getattr(a, kind), getattr(b, kind)) for a, b in pairs for kind in ("member", "non_member")]
    return all(np.array_equal(a, b) for a, b in scores) and first.figures() == second.figures()


@pytest.fixture(scope="module")
def data():
    return noise_data(train=80, val=20, test=60)


@pytest.fixture(scope="module")
def coreset(data):
    return membership(real_tiles(data.train), data, OVERFIT, OPTIONS, trainer=QUIET)


def test_chips_learnt_by_heart_are_found(coreset):
    assert coreset.in_set is not None and len(coreset.in_set.member) == 20
    assert coreset.in_set.auc > 0.95 and coreset.in_set.auc_interval[0] > 0.9
    assert coreset.in_set.tpr(0.01) > 0.5
    assert (coreset.method, coreset.ipc, coreset.variant, coreset.label_type) == ("random", 10, "offline", "hard")


def test_a_coreset_betrays_little_of_the_chips_that_it_left_out(coreset, data):
    assert len(coreset.in_view.member) == len(coreset.in_view.non_member) == 80
    # A quarter of the members are in the set: found, they lift the area by an eighth.
    assert 0.5 < coreset.in_view.auc < coreset.in_set.auc - 0.2
    left_out = np.delete(coreset.in_view.member, np.flatnonzero(np.isin(coreset.in_view.member, coreset.in_set.member)))
    assert len(left_out) == 60
    low, high = Attack(left_out, coreset.in_view.non_member).auc_interval
    assert low < 0.5 < high


def test_a_set_of_chips_from_elsewhere_gives_chance(data):
    tiles = tiles_of(noise(20, seed=77), np.arange(20) % 2)
    found = membership(tiles, data, OVERFIT, OPTIONS, trainer=QUIET)
    low, high = found.in_view.auc_interval
    assert low < 0.5 < high
    low, high = found.in_view.tpr_interval(0.01)
    assert low <= 0.01 <= high
    assert found.in_set is None


def test_a_set_of_held_out_chips_is_no_leak_of_the_train_view(data):
    found = membership(real_tiles(data.test), data, OVERFIT, OPTIONS, trainer=QUIET)
    assert found.in_view.auc < 0.5 and found.in_set is None


def test_full_training_by_heart_is_found_online(data):
    found = membership(None, data, OVERFIT, OPTIONS, trainer=QUIET)
    assert (found.method, found.ipc, found.variant) == ("full", None, "online")
    assert found.in_view.auc_interval[0] > 0.6 and found.in_set is None


def test_students_that_learn_nothing_give_chance(data):
    idle = {**RECIPE, "steps": 1, "lr": 1e-9}
    areas = [membership(None, data, idle, {**OPTIONS, "seed": n}, trainer=QUIET).in_view.auc for n in range(8)]
    assert np.mean(areas) == pytest.approx(0.5, abs=4 * np.std(areas, ddof=1) / np.sqrt(8))


def test_unequal_splits_are_balanced_by_class():
    data = noise_data(train=120, val=0, test=40)
    full = membership(None, data, {**OVERFIT, "steps": 3}, OPTIONS, trainer=QUIET)
    assert len(full.in_view.member) == len(full.in_view.non_member) == 40


def test_shadows_draw_members_and_non_members_alike(data, monkeypatch):
    trained, train = [], module.train_student

    def record(images, labels, *rest):
        trained.append(([chip.numpy().tobytes() for chip in images], labels))
        return train(images, labels, *rest)

    monkeypatch.setattr(module, "train_student", record)
    quick, options = {**RECIPE, "steps": 1}, {"targets": 1, "views": 1}
    membership(None, data, quick, {**options, "shadow_sets": 6}, trainer=QUIET)
    halves = [chips for chips, _ in trained[:6]]
    # Halves: pairs of shadows share no chip, and every chip is in half of them.
    assert set(Counter(chip for half in halves for chip in half).values()) == {3}
    assert not set(halves[0]) & set(halves[1]) and len({*halves[0], *halves[1]}) == 160
    trained.clear()
    membership(tiles_of(noise(20), np.arange(20) % 2), data, quick, {**options, "shadow_sets": 8}, trainer=QUIET)
    few = trained[:8]
    assert [np.bincount(labels).tolist() for _, labels in few] == [[10, 10]] * 8
    assert len({chip for chips, _ in few for chip in chips}) == 160


def test_equal_inputs_give_equal_results_and_another_seed_does_not(data, coreset):
    again = membership(real_tiles(data.train), data, OVERFIT, MembershipOptions(4, 2, 1), trainer=QUIET)
    assert equal(again, coreset)
    other = membership(real_tiles(data.train), data, OVERFIT, {**OPTIONS, "seed": 1}, trainer=QUIET)
    assert not equal(other, coreset)


def test_a_killed_attack_continues_and_sets_of_a_size_share_shadows(data, coreset, tmp_path, monkeypatch):
    trained = []
    train = module.train_student

    def some(*args, **kwargs):
        if len(trained) == 3:
            raise KeyboardInterrupt
        trained.append(1)
        return train(*args, **kwargs)

    arguments = (data, OVERFIT, OPTIONS, tmp_path, QUIET)
    with monkeypatch.context() as patch:
        patch.setattr(module, "train_student", some)
        with pytest.raises(KeyboardInterrupt):
            membership(real_tiles(data.train), *arguments)
    monkeypatch.setattr(module, "train_student", lambda *a, **k: trained.append(1) or train(*a, **k))
    assert equal(membership(real_tiles(data.train), *arguments), coreset)
    assert len(trained) == 6
    membership(real_tiles(data.train), *arguments)
    assert len(trained) == 6
    # Another set of the same size needs its own targets only; other chips under the same labels need all.
    membership(tiles_of(noise(20, seed=5), np.arange(20) % 2), *arguments)
    assert len(trained) == 8
    membership(real_tiles(data.train), noise_data(train=80, val=20, test=60, seed=1), *arguments[1:])
    assert len(trained) == 14
    next(tmp_path.glob("*.json")).write_text("{")
    with pytest.raises(ArtifactError, match="delete it"):
        for tiles in (real_tiles(data.train), tiles_of(noise(20, seed=5), np.arange(20) % 2)):
            membership(tiles, *arguments)
        membership(real_tiles(data.train), noise_data(train=80, val=20, test=60, seed=1), *arguments[1:])


def test_soft_labels_are_attacked_where_the_recipe_learns_them(data):
    tiles = real_tiles(data.train)
    tiles = replace(tiles, soft_label=np.full((20, 2), 0.5, np.float32))
    soft = membership(tiles, data, OVERFIT, OPTIONS, trainer=QUIET)
    assert soft.label_type == "soft" and soft.in_set.auc < 0.9
    assert membership(tiles, data, {**OVERFIT, "soft": False}, OPTIONS, trainer=QUIET).label_type == "hard"


def test_a_set_may_lack_classes(data):
    tiles = real_tiles(data.train)
    tiles = replace(tiles.subset(tiles.label == 1), label=np.zeros(10, np.int64), classes=CLASSES[1:])
    found = membership(tiles, data, {**OVERFIT, "steps": 2}, OPTIONS, trainer=QUIET)
    assert len(found.in_view.member) == 40


def test_figures_survive_json(coreset):
    figures = json.loads(json.dumps(coreset.figures(), allow_nan=False))
    assert figures == coreset.figures()
    assert figures["in_set"]["auc"] == coreset.in_set.auc and figures["in_view"]["members"] == 80


def test_confidence_is_the_log_odds_of_the_class():
    class Fixed(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = torch.nn.Parameter(torch.ones(()))

        def forward(self, images):
            return images[:, :, 0, 0] * self.scale

    logits = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    chips = Chips(logits[:, :, None, None].expand(5, 3, 2, 2).contiguous(), np.array([0, 1, 2, 0, 1]))
    p = logits.double().softmax(1).gather(1, torch.from_numpy(chips.labels)[:, None])[:, 0]
    wanted = (p / (1 - p)).log().numpy()
    for views in (1, 2, 8):
        np.testing.assert_allclose(confidences(Fixed(), chips, views), wanted, rtol=1e-6)
    # A view that is turned shows the student another corner.
    chips.images[:, :, 0, 1] += 5.0 * torch.eye(3)[0]
    assert not np.allclose(confidences(Fixed(), chips, 2), wanted)
    # A student that is quite sure gives a large number, not infinity.
    sure = Chips(1000.0 * torch.eye(3)[:1, :, None, None], np.array([0]))
    assert confidences(Fixed(), sure)[0] == pytest.approx(1000.0 - np.log(2))


scores = st.lists(st.integers(-4, 4), min_size=1, max_size=40).map(lambda v: np.array(v, np.float64))


@settings(max_examples=60, deadline=None)
@given(scores, scores, st.sampled_from([0.0, 0.001, 0.01, 0.1, 0.5, 1.0]))
def test_figures_equal_scikit_learns(member, non_member, fpr):
    attack = Attack(member, non_member)
    truth = np.repeat([1, 0], [len(member), len(non_member)])
    both = np.concatenate([member, non_member])
    false, true, _ = roc_curve(truth, both, drop_intermediate=False)
    assert attack.tpr(fpr) == pytest.approx(true[false <= fpr].max())
    assert attack.auc == pytest.approx(roc_auc_score(truth, both))
    low, high = attack.tpr_interval(fpr)
    assert 0.0 <= low <= attack.tpr(fpr) <= high <= 1.0
    low, high = attack.auc_interval
    assert 0.0 <= low <= attack.auc <= high <= 1.0


def test_intervals_hold_the_truth_as_often_as_they_say():
    random = np.random.default_rng(0)
    area, found = 0, 0
    for _ in range(300):
        attack = Attack(random.normal(1.0, 1.0, 120), random.normal(0.0, 1.0, 200))
        # Two normals one deviation apart: area Φ(1/√2); beyond the 5 % point of one lie 26 % of the other.
        low, high = attack.auc_interval
        area += low < 0.7602 < high
        low, high = attack.tpr_interval(0.05)
        found += low < 0.2595 < high
    assert area >= 275 and found >= 285


def test_few_non_members_say_little_of_few_false_alarms():
    attack = Attack(np.full(100, 1.0), np.zeros(100))
    assert attack.tpr(0.001) == 1.0 and attack.tpr_interval(0.001) == (0.0, 1.0)
    assert attack.tpr_interval(0.1)[0] > 0.9


@pytest.mark.parametrize("wrong", [np.empty(0), np.array([np.nan]), np.array([np.inf])], ids=str)
def test_scores_without_figures_are_refused(wrong):
    for pair in ((wrong, np.zeros(3)), (np.zeros(3), wrong)):
        with pytest.raises(OptionError, match="finite scores"):
            Attack(*pair)
    with pytest.raises(OptionError, match="between 0 and 1"):
        Attack(np.zeros(2), np.zeros(2)).tpr(1.5)


def test_a_config_names_the_attack_as_a_group_of_options():
    asked = parse_options(AuditOptions, {"membership": {"shadow_sets": 4, "views": 1}}, "audit")
    assert asked.membership == MembershipOptions(4, views=1)
    assert parse_options(AuditOptions, {}, "audit").membership is None
    with pytest.raises(OptionError, match=r"audit\.membership .* such as \{shadow_sets: 8\}, not 12"):
        parse_options(AuditOptions, {"membership": 12}, "audit")
    with pytest.raises(OptionError, match=r"audit\.membership\.shadows is now shadow_sets"):
        parse_options(AuditOptions, {"membership": {"shadows": 12}}, "audit")


def test_what_cannot_be_attacked_is_refused_before_any_training(data, monkeypatch):
    monkeypatch.setattr(module, "train_student", lambda *a, **k: pytest.fail("trained"))
    tiles = real_tiles(data.train)
    with pytest.raises(AuditError, match="empty"):
        membership(tiles.subset(np.zeros(20, bool)), data)
    with pytest.raises(AuditError, match="membership needs twice as many"):
        membership(tiles_of(noise(90), np.arange(90) % 2), data, RECIPE)
    with pytest.raises(UnknownNameError, match="did you mean 'shadow_sets'"):
        membership(tiles, data, RECIPE, {"shadow_set": 4})
    with pytest.raises(OptionError, match=r"membership\.shadow_sets"):
        membership(tiles, data, RECIPE, MembershipOptions(shadow_sets=2))
    with pytest.raises(UnknownNameError, match="did you mean 'convnet'"):
        membership(tiles, data, {"student": "convet"})
    with pytest.raises(BandError):
        rgb = get_bands("bgrn", ["red", "green", "blue"])
        membership(replace(tiles, image=tiles.image[:, :3], bands=rgb), data)
    source = NoiseScenes(8)
    forests = SceneData(source, *(SceneView(source, np.array(part)) for part in ([1, 3], [], [0, 5])))
    with pytest.raises(AuditError, match="'beach' of dataset 'noise' has 0 train and 1 held-out chips"):
        membership(None, forests, RECIPE)
