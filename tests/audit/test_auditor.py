"""Verdicts: planted leaks are flagged, honest tiles pass, and what does not belong together is refused."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from helpers.planted_scenes import CLASSES, copies_of, tiles_of
from helpers.smooth_scenes import smooth, smooth_data

from rsdistill.audit import AuditOptions, Auditor, AuditReport, apply, audit
from rsdistill.audit.audit_report import CAVEAT, VERDICTS
from rsdistill.bands import get_bands
from rsdistill.classes import ClassInfo
from rsdistill.datasets.base import SceneData, SceneView
from rsdistill.datasets.splits import split_digest
from rsdistill.errors import ArtifactError, AuditError, BandError, OptionError, UnknownNameError

OPTIONS = AuditOptions(features="descriptors", calibration=100)


@pytest.fixture(scope="module")
def data():
    return smooth_data()


@pytest.fixture(scope="module")
def auditor(data):
    return Auditor(data, OPTIONS)


def leaks():
    random = np.random.default_rng(3)

    def noisy(images):
        return 0.7 * images + 0.3 * random.uniform(1, 10000, images.shape)

    def pasted(images):
        half = images.shape[-1] // 2
        made = np.empty_like(images)
        for position in range(len(images)):
            same = images[position % 2 :: 2]
            for quadrant in range(4):
                top, left = random.integers(0, half + 1, 2)
                crop = same[random.integers(len(same)), :, top : top + half, left : left + half]
                y, x = divmod(quadrant, 2)
                made[position, :, y * half : (y + 1) * half, x * half : (x + 1) * half] = crop
        return made

    return {
        "exact": lambda images: images,
        "turned": lambda images: np.rot90(images, 1, (2, 3)),
        "mirrored and turned": lambda images: np.rot90(images[..., ::-1], 3, (2, 3)),
        "brightened": lambda images: np.clip(images * 1.1, 1, 10000),
        "darker and duller": lambda images: images * 0.5 + 1000,
        "blended with noise": noisy,
        "pasted from crops": pasted,
    }


@pytest.mark.parametrize("leak", leaks().values(), ids=leaks())
def test_planted_leaks_are_flagged(leak, auditor, data):
    copies = copies_of(data.train, 40)
    made = leak(copies.image.astype(np.float64)).round().astype(np.uint16)
    report = auditor.audit(replace(copies, image=made))
    assert report.counts["pass"] <= 2
    assert all(tile.reasons for tile in report.tiles if tile.verdict != "pass")


def test_honest_tiles_pass(auditor):
    honest = tiles_of(smooth(200, seed=99), np.arange(200) % 2)
    report = auditor.audit(honest)
    # One in a hundred is allowed; more than six of 200 would come once in two hundred trials.
    assert report.counts["pass"] >= 194
    assert report.held_out_null_pixels.low < 0.5 < report.held_out_null_pixels.high
    assert report.held_out_null_features.low < 0.5 < report.held_out_null_features.high
    assert all(not tile.reasons for tile in report.tiles if tile.verdict == "pass")


def test_exact_copies_are_blocked_and_every_figure_says_so(auditor, data):
    report = auditor.audit(copies_of(data.train, 20))
    assert report.verdicts == ("block",) * 20
    assert report.held_out_null_pixels.rate == report.held_out_null_features.rate == 1.0
    assert report.copy_ratio_pixels.tiles == report.copy_ratio_features.tiles == 1.0
    assert report.copy_ratio_pixels.honest < 0.05
    assert report.feature_copies.tiles == 1.0 and report.feature_copies.honest < 0.3
    assert report.nn_ssim.tiles > report.nn_ssim.honest
    assert all(tile.values["pixels"] < 0.01 for tile in report.tiles)
    assert report.most_suspicious(3) == sorted(range(20), key=lambda position: -report.tiles[position].rarity)[:3]


def test_near_duplicates_in_train_do_not_hide_a_copy(data):
    # Two more views of each of the first chips, as overlapping chips of one aerial image are.
    source = data.source
    twins = data.train.indices[:20]
    pixels = source.pixels.copy()
    pixels[data.train.indices[20:40]] = np.roll(source.pixels[twins], 1, -1)
    doubled = smooth_data()
    doubled.source.pixels = pixels
    report = audit(copies_of(doubled.train, 20), doubled, OPTIONS)
    assert report.counts["pass"] == 0


def test_thresholds_let_pass_as_many_calibration_chips_as_asked_for(data):
    strict, loose = (Auditor(data, replace(OPTIONS, review=share)) for share in (0.01, 0.1))
    honest = tiles_of(smooth(160, seed=5), np.arange(160) % 2)
    few, many = (auditor.audit(honest).counts["pass"] for auditor in (strict, loose))
    assert few > many
    assert 0.02 < 1 - many / 160 < 0.25


def test_protected_classes_are_held_to_tighter_thresholds(data, auditor):
    honest = tiles_of(smooth(160, seed=6), np.arange(160) % 2)
    plain, guarded = auditor.audit(honest), Auditor(data, OPTIONS, protected={"forest"}).audit(honest)
    assert guarded.protected == ("forest",) and plain.protected == ()
    assert guarded.thresholds["protected_review"] < guarded.thresholds["review"]
    assert guarded.thresholds["protected_block"] < guarded.thresholds["block"]
    severity = [[VERDICTS.index(v) for v in report.verdicts] for report in (plain, guarded)]
    changed = [tile.class_key for tile, a, b in zip(plain.tiles, *severity, strict=True) if a != b]
    assert changed and set(changed) == {"forest"}
    assert all(b >= a for a, b in zip(*severity, strict=True))


def test_report_survives_json_and_holds_no_chip(auditor, data):
    report = auditor.audit(copies_of(data.train, 6))
    text = json.dumps(report.to_dict())
    assert AuditReport.from_dict(json.loads(text)).to_dict() == json.loads(text)
    assert not any(f'"{chip}"' in text for chip in data.train.chip_ids)
    assert report.caveat == CAVEAT and "cannot prove" in CAVEAT
    with pytest.raises(ArtifactError, match="no audit report"):
        AuditReport.from_dict({"format": "other"})
    with pytest.raises(ArtifactError, match="damaged"):
        AuditReport.from_dict({"format": report.to_dict()["format"]})


def test_applied_verdicts_reach_set_and_manifest(auditor, data):
    tiles = copies_of(data.train, 6)
    report = auditor.audit(tiles)
    audited = apply(tiles, report)
    assert list(audited.verdict) == list(report.verdicts)
    assert audited.manifest["audit"]["verdicts"] == report.counts
    assert audited.manifest["audit"]["caveat"] == CAVEAT
    assert "tiles" not in audited.manifest["audit"]
    assert tiles.verdict is None and "audit" not in tiles.manifest
    # An audited set can be audited again.
    assert apply(audited, auditor.audit(audited)).verdict == audited.verdict
    with pytest.raises(AuditError, match="another set"):
        apply(copies_of(data.train, 5), report)


def test_memory_does_not_grow_with_the_dataset(data, auditor, monkeypatch):
    largest = 0
    original = SceneView.images

    def watched(self, which=None):
        nonlocal largest
        found = original(self, which)
        largest = max(largest, len(found))
        return found

    monkeypatch.setattr(SceneView, "images", watched)
    auditor.audit(tiles_of(smooth(4, seed=1), np.arange(4) % 2))
    assert largest == 64 < len(data.train) // 2


def test_another_split_is_refused(data):
    tiles = copies_of(data.train, 4)
    right = replace(tiles, manifest={**tiles.manifest, "split": split_digest(data)})
    assert audit(right, data, OPTIONS).split_checked
    assert not audit(tiles, data, OPTIONS).split_checked
    moved = SceneData(data.source, SceneView(data.source, data.train.indices[:-2]), data.val, data.test)
    with pytest.raises(AuditError, match="another split"):
        audit(right, moved, OPTIONS)
    # A set that lacks a class was made from the chips of the others.
    only = SceneView(data.source, data.train.indices[data.train.labels == 1])
    keys = [info.key for info in CLASSES[1:]]
    alone = replace(
        right.subset(right.label == 1),
        label=np.zeros(2, np.int64),
        classes=CLASSES[1:],
        manifest={**right.manifest, "split": split_digest(replace(data, train=only), keys)},
    )
    assert audit(alone, data, OPTIONS).split_checked


def test_what_does_not_belong_together_is_refused_before_a_chip_is_read(data):
    tiles = copies_of(data.train, 4)
    before = data.source.reads
    with pytest.raises(AuditError, match="made from dataset 'elsewhere', not 'noise'"):
        audit(replace(tiles, manifest={"dataset": {"name": "elsewhere"}}), data, OPTIONS)
    with pytest.raises(AuditError, match="empty"):
        audit(tiles.subset(np.zeros(4, bool)), data, OPTIONS)
    with pytest.raises(UnknownNameError, match="airport"):
        audit(replace(tiles, classes=(ClassInfo("airport", "airport"), CLASSES[1])), data, OPTIONS)
    rgb = replace(tiles, image=tiles.image[:, :3], bands=get_bands("bgrn", ["red", "green", "blue"]))
    with pytest.raises(BandError, match="red, green, blue"):
        audit(rgb, data, OPTIONS)
    assert data.source.reads == before


def test_no_held_out_chip_is_said(data):
    none = SceneView(data.source, data.test.indices[:0])
    with pytest.raises(AuditError, match="no held-out chip"):
        audit(copies_of(data.train, 4), SceneData(data.source, data.train, none, none), OPTIONS)
    beaches = SceneView(data.source, data.test.indices[data.test.labels == 0])
    with pytest.raises(AuditError, match="'forest' of dataset 'noise' has no held-out chip"):
        audit(copies_of(data.train, 4), SceneData(data.source, data.train, none, beaches), OPTIONS)


def test_shares_in_the_wrong_order_are_refused():
    with pytest.raises(OptionError, match=r"audit\.block"):
        AuditOptions(review=0.001, block=0.01)


def test_membership_figures_find_their_place_in_report_and_page(auditor, data, tmp_path):
    from rsdistill.audit.attack import Attack, MembershipResult
    from rsdistill.report import write_audit

    attack = Attack(np.linspace(0.2, 1.2, 300), np.linspace(0.0, 1.0, 300))
    found = MembershipResult("noise", "planted", 2, "hard", "online", 8, 2, attack, None)
    tiles = copies_of(data.train, 4)
    plain = auditor.audit(tiles)
    report = plain.with_membership(found)
    assert plain.membership is None
    assert AuditReport.from_dict(json.loads(json.dumps(report.to_dict()))).membership == found.figures()
    page = write_audit(tmp_path / "audit.html", report=report, data=data, tiles=tiles).read_text()
    assert f"{100 * attack.tpr(0.01):.1f} (" in page and "members found at 1 % false alarms" in page
    assert page.count('<span class="tag real">block</span>') == 4
    assert "fewer than one honest image in 1,000,000" in page
