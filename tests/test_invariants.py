"""What holds whatever the numbers are: of ROC statistics, of perturbations, of adjusted p values."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from s2llib.defenses.perturbation import project, to_8bit, to_signed
from s2llib.metrics.multiplicity import p_adjusted
from s2llib.metrics.roc import auc, roc_curve, tpr_at_fpr

SCORES = st.lists(st.integers(-20, 20), min_size=1, max_size=30).map(lambda x: np.array(x, dtype=float))
SHARES = st.floats(0, 1)
seeded = st.integers(0, 2**32 - 1).map(lambda seed: torch.Generator().manual_seed(seed))


@given(SCORES, SCORES)
def test_auc_of_the_two_sides_exchanged_is_the_rest_to_one(members, nonmembers):
    assert auc(members, nonmembers) + auc(nonmembers, members) == pytest.approx(1)


@given(SCORES, SCORES, SHARES)
def test_rates_do_not_change_under_a_rising_map_of_the_scores(members, nonmembers, fpr):
    for rising in (np.exp, lambda x: x**3, lambda x: 2 * x - 5):
        assert auc(rising(members), rising(nonmembers)) == pytest.approx(auc(members, nonmembers))
        assert tpr_at_fpr(rising(members), rising(nonmembers), fpr) == tpr_at_fpr(members, nonmembers, fpr)


@given(SCORES, SCORES, SHARES, SHARES)
def test_tpr_rises_with_the_admitted_fpr(members, nonmembers, one, other):
    assert tpr_at_fpr(members, nonmembers, min(one, other)) <= tpr_at_fpr(members, nonmembers, max(one, other))


@given(SCORES, SCORES)
def test_the_curve_rises_from_zero_to_one_and_the_auc_is_the_area_below_it(members, nonmembers):
    false, true = roc_curve(members, nonmembers)
    assert (np.diff(false) >= 0).all()
    assert (np.diff(true) >= 0).all()
    assert (false[0], true[0], false[-1], true[-1]) == pytest.approx((0, 0, 1, 1))
    assert np.trapezoid(true, false) == pytest.approx(auc(members, nonmembers))


@settings(deadline=None)
@given(seeded, st.sampled_from(["linf", "l2"]), st.floats(0.01, 2))
def test_projection_is_idempotent_and_stays_in_the_ball_and_the_range(draw, norm, radius):
    clean = torch.rand(2, 3, 4, 4, generator=draw) * 2 - 1
    x = clean + torch.randn(2, 3, 4, 4, generator=draw)
    once = project(x, clean, radius, norm)
    torch.testing.assert_close(project(once, clean, radius, norm), once)
    size = (once - clean).flatten(1)
    assert (size.abs().amax(1) if norm == "linf" else size.norm(dim=1)).max() <= radius * (1 + 1e-5)
    assert once.abs().max() <= 1


@settings(deadline=None)
@given(seeded, st.sampled_from(["linf", "l2"]), st.floats(0.01, 2))
def test_in_8_bits_a_perturbation_is_still_in_its_ball(draw, norm, radius):
    clean = torch.randint(0, 256, (2, 3, 4, 4), generator=draw, dtype=torch.uint8)
    x = project(to_signed(clean) + torch.randn(2, 3, 4, 4, generator=draw), to_signed(clean), radius, norm)
    size = (to_signed(to_8bit(x, clean)) - to_signed(clean)).flatten(1)
    assert (size.abs().amax(1) if norm == "linf" else size.norm(dim=1)).max() <= radius + 1e-5


@settings(deadline=None, max_examples=40)
@given(st.lists(SHARES, min_size=1, max_size=8).map(np.array))
def test_an_adjusted_p_is_no_smaller_than_its_own_and_keeps_the_order(p):
    found = p_adjusted(p, None, 0.95).p
    assert (found >= p - 1e-12).all()
    assert (found <= 1).all()
    assert (np.diff(found[np.argsort(p)]) >= -1e-12).all()
