import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from s2llib.metrics.blind import blind_scores
from s2llib.metrics.roc import auc, roc_curve, tpr_at_fpr


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_auc_equals_sklearn_also_under_ties(rng):
    members, nonmembers = rng.integers(0, 6, 40) / 3, rng.integers(0, 5, 30) / 3
    expected = roc_auc_score(np.repeat([1, 0], [40, 30]), np.concatenate([members, nonmembers]))
    assert auc(members, nonmembers) == pytest.approx(expected)


def brute_tpr(members, nonmembers, fpr):
    thresholds = [*members, *nonmembers, np.inf]
    return max(np.mean(members >= x) for x in thresholds if np.mean(nonmembers >= x) <= fpr)


@pytest.mark.parametrize("fpr", [0.01, 0.1, 0.5])
def test_tpr_is_the_largest_at_the_allowed_fpr(rng, fpr):
    for _ in range(20):
        members, nonmembers = rng.integers(0, 9, 25) / 2, rng.integers(0, 8, 20) / 2
        assert tpr_at_fpr(members, nonmembers, fpr) == pytest.approx(brute_tpr(members, nonmembers, fpr))


def test_weights_act_as_repeated_images(rng):
    members, nonmembers = rng.normal(0.5, 1, 12), rng.normal(0, 1, 10)
    wm, wn = rng.integers(0, 4, (5, 12)).astype(float), rng.integers(0, 4, (5, 10)).astype(float)
    weighted = tpr_at_fpr(members, nonmembers, 0.2, wm, wn)
    for b in range(5):
        repeated = np.repeat(members, wm[b].astype(int)), np.repeat(nonmembers, wn[b].astype(int))
        assert weighted[b] == pytest.approx(brute_tpr(*repeated, 0.2))


def test_roc_curve_runs_from_corner_to_corner_and_encloses_the_auc(rng):
    members, nonmembers = rng.normal(1, 1, 50), rng.normal(0, 1, 40)
    false, true = roc_curve(members, nonmembers)
    assert (false[0], true[0], false[-1], true[-1]) == (0, 0, 1, 1)
    assert np.trapezoid(true, false) == pytest.approx(auc(members, nonmembers))


def test_blind_baseline_sees_a_style_and_nothing_else(rng):
    same = auc(*blind_scores(rng.normal(0, 1, (200, 5)), rng.normal(0, 1, (200, 5)), 5, 0))
    other = auc(*blind_scores(rng.normal(0, 1, (200, 5)), rng.normal(1.5, 1, (200, 5)), 5, 0))
    assert abs(same - 0.5) < 0.1
    assert other > 0.95
