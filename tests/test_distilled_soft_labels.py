"""Soft labels: what is kept sums to one, in eight bits."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsdistill.distilled import nbytes, pack, quantise
from rsdistill.errors import OptionError


@given(st.integers(1, 20), st.integers(1, 300), st.integers(1, 9), st.integers(0, 10**6))
def test_rows_sum_to_one_and_order_is_kept(samples, classes, top, seed):
    top = min(top, classes)
    shares = np.random.default_rng(seed).dirichlet(np.full(classes, 0.3), samples)
    packed = quantise(shares, top)
    dense = packed.unpack()
    np.testing.assert_allclose(dense.sum(1), 1.0, atol=1e-5)
    assert ((dense > 0).sum(1) <= top).all()
    assert np.array_equal(packed.index[:, 0], shares.argmax(1))
    kept = np.take_along_axis(shares, packed.index.astype(int), 1)
    kept /= kept.sum(1, keepdims=True)
    assert np.abs(kept - packed.weight / 255).max() < 1 / 255 + 1e-9
    again = pack(dense)
    assert again is not None and np.array_equal(again.unpack(), dense)
    assert packed.nbytes == samples * top * (1 if classes <= 256 else 2) + samples * top


def test_a_hand_computed_case():
    packed = quantise(np.array([[0.5, 0.3, 0.15, 0.05]]), 2)
    # 0.5/0.8 and 0.3/0.8 of 255 are 159.375 and 95.625: the larger remainder is rounded up.
    assert packed.index.tolist() == [[0, 1]] and packed.weight.tolist() == [[159, 96]]


def test_finer_labels_stay_dense():
    dense = np.array([[0.7512, 0.2488]], np.float32)
    assert pack(dense) is None and nbytes(dense) == 8
    assert nbytes(quantise(dense, 2).unpack()) == 4


@pytest.mark.parametrize("top", [0, 4])
def test_impossible_tops_are_refused(top):
    with pytest.raises(OptionError, match=r"soft_labels.top_k"):
        quantise(np.ones((2, 3)) / 3, top)


@pytest.mark.parametrize("row", [[0.0, 0.0], [-1.0, 2.0], [np.nan, 1.0]])
def test_what_is_no_probability_is_refused(row):
    with pytest.raises(OptionError, match="probabilities"):
        quantise(np.array([row]), 1)
