"""Metrics against scikit-learn and against their own definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn import metrics as reference
from sklearn.metrics.pairwise import cosine_similarity

from rsdistill.errors import OptionError, UnknownNameError
from rsdistill.evaluation import (
    METRICS,
    EvaluationReport,
    Row,
    Scores,
    alpha_score,
    ars,
    coverage,
    hlr,
    ior,
    lrs,
)

fractions = st.floats(0, 1)


@st.composite
def predictions(draw, classes=6):
    count = draw(st.integers(1, 60))
    labels = st.lists(st.integers(0, classes - 1), min_size=count, max_size=count)
    return np.array(draw(labels)), np.array(draw(labels))


@settings(deadline=None)
@given(predictions())
def test_accuracies_equal_scikit_learns(case):
    truth, predicted = case
    recalls = reference.recall_score(truth, predicted, labels=np.unique(truth), average="macro", zero_division=0)
    found = Scores.of(truth, predicted)
    assert found.oa == pytest.approx(reference.accuracy_score(truth, predicted))
    assert found.aa == pytest.approx(recalls)


@settings(deadline=None)
@given(predictions())
def test_kappa_equals_scikit_learns(case):
    truth, predicted = case
    assume(len(np.unique(np.concatenate(case))) > 1)
    assert Scores.of(truth, predicted).kappa == pytest.approx(reference.cohen_kappa_score(truth, predicted))


def test_kappa_of_one_class_alone_is_agreement():
    assert Scores.of(np.zeros(4), np.zeros(4)).kappa == 1.0


@pytest.mark.parametrize(
    ("truth", "predicted", "classes"),
    [([], [], None), ([0, 1], [0], None), ([0, -1], [0, 0], None), ([0, 3], [0, 0], 3)],
)
def test_labels_that_do_not_pair_are_refused(truth, predicted, classes):
    with pytest.raises(OptionError):
        Scores.of(np.array(truth), np.array(predicted), classes=classes)


@given(fractions, fractions, fractions, fractions)
def test_robust_scores_follow_their_definition(full, distilled, random, weight):
    alpha = alpha_score(ior(distilled, random), hlr(full, distilled), weight)
    assert alpha == pytest.approx(weight * (distilled - random) - (1 - weight) * (full - distilled))
    assert lrs(alpha) == pytest.approx((math.exp(alpha) - math.exp(-1)) / (math.e - math.exp(-1)))
    assert -1e-12 <= lrs(alpha) <= 1 + 1e-12


def test_robust_scores_at_their_ends():
    assert lrs(-1.0) == 0.0 and lrs(1.0) == 1.0
    assert ars(1.0, 0.0, 1.0, 0.0) == 1.0 and ars(0.0, 1.0, 0.0, 1.0) == 0.0
    # Equal to random with and without augmentation is what alpha 0 is.
    assert ars(0.4, 0.4, 0.3, 0.3) == lrs(0.0)
    # All weight on the augmented part leaves the other without effect.
    assert ars(0.5, 0.2, 0.9, 0.0, weight=1.0) == lrs(0.5 - 0.2)
    with pytest.raises(OptionError, match="weight"):
        alpha_score(0.1, 0.1, 1.5)
    with pytest.raises(OptionError, match="weight"):
        ars(0.1, 0.1, 0.1, 0.1, -0.5)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32 - 1), st.integers(1, 20), st.integers(0, 10))
def test_coverage_equals_the_plain_loop(seed, count, distilled_count):
    random = np.random.default_rng(seed)
    real, labels = random.normal(size=(count, 5)), random.integers(0, 3, count)
    distilled, distilled_labels = random.normal(size=(distilled_count, 5)), random.integers(0, 3, distilled_count)
    best = []
    for feature, label in zip(real, labels, strict=True):
        same = distilled[distilled_labels == label]
        best.append(cosine_similarity(feature[None], same).max() if len(same) else 0.0)
    assert coverage(real, labels, distilled, distilled_labels) == pytest.approx(np.mean(best))


def test_coverage_of_the_set_itself_is_one_and_misfits_are_refused():
    features, labels = np.random.default_rng(0).normal(size=(6, 4)), np.array([0, 1, 0, 1, 2, 2])
    assert coverage(features, labels, 3 * features, labels) == pytest.approx(1.0)
    with pytest.raises(OptionError):
        coverage(features, labels, features[:, :2], labels)
    with pytest.raises(OptionError):
        coverage(features, labels[:3], features, labels)


@pytest.fixture
def registered():
    """Two metrics of one's own, forgotten afterwards."""
    before = dict(METRICS._entries)

    @METRICS.register("macro-f1", summary="mean F1 over all classes")
    def macro_f1(labels, predictions, classes):
        return reference.f1_score(labels, predictions, labels=range(classes), average="macro", zero_division=0)

    METRICS.register("broken", summary="gives no number")(lambda labels, predictions, classes: math.nan)
    yield
    METRICS._entries = before


def test_a_registered_metric_becomes_a_column(registered):
    assert {"oa", "aa", "kappa", "macro-f1"} <= set(METRICS.names())
    truth, predicted = np.array([0, 1, 2, 2]), np.array([0, 1, 2, 1])
    scores = [Scores.of(truth, predicted, ("oa", "macro-f1"), 4), Scores.of(truth, truth, ("macro-f1",), 4)]
    assert scores[0].extra == {"macro-f1": pytest.approx((1 + 2 / 3 + 2 / 3 + 0) / 4)}
    row = Row.of("mine", 1, "convnet", "hard", True, scores, None, 1, 10)
    plain = Row.of("full", None, "convnet", "hard", False, [Scores.of(truth, truth)], None, 1, 10)
    report = EvaluationReport("scenes", {}, (0,), 4, (row, plain))
    assert EvaluationReport.from_dict(report.to_dict()) == report
    frame = report.to_frame()
    assert frame.loc[0, "macro-f1"] == pytest.approx(np.mean([s.extra["macro-f1"] for s in scores]))
    assert "extra" not in frame and frame.loc[0, "macro-f1_std"] > 0
    header, _, first, second = report.table().splitlines()[:4]
    column = header.index("macro-f1")
    assert first[column:].startswith("0.667 ± ") and second[column:].startswith("- ")


def test_reports_without_further_metrics_still_load():
    row = Row.of("mine", 1, "convnet", "hard", True, [Scores(0.5, 0.5, 0.0)], None, 1, 10)
    values = EvaluationReport("scenes", {}, (0,), 4, (row,)).to_dict()
    del values["rows"][0]["extra"]
    assert EvaluationReport.from_dict(values).rows == (row,)


def test_a_metric_that_is_unknown_or_gives_no_number_is_refused(registered):
    truth = np.array([0, 1])
    with pytest.raises(OptionError, match="metric 'broken' gave nan"):
        Scores.of(truth, truth, ("broken",))
    with pytest.raises(UnknownNameError, match="did you mean 'macro-f1'"):
        Scores.of(truth, truth, ("macrof1",))
