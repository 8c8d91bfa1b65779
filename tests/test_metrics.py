import numpy as np
import pytest
from s2llib.metrics.bootstrap import HierarchicalBootstrap, Scores
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


def normal_scores(rng, domains, images, shift, spread=0.0):
    members = [rng.normal(shift + rng.normal(0, spread), 1, (1, images)) for _ in range(domains)]
    return Scores(members, [rng.normal(0, 1, (1, images)) for _ in range(domains)])


def test_bootstrap_replicates_are_resampled_domains_and_images(rng):
    scores = normal_scores(rng, 4, 15, 0.7)
    bootstrap = HierarchicalBootstrap(scores.sizes, 50, seed=3)
    estimate = bootstrap.auc(scores)
    for b in (0, 17, 49):
        parts = []
        for d in range(4):
            for row in np.nonzero(bootstrap.rows[d] == b)[0]:
                wm, wn = (w[row].astype(int) for w in bootstrap.weights[d])
                parts.append(auc(np.repeat(scores.members[d][0], wm), np.repeat(scores.nonmembers[d][0], wn)))
        assert len(parts) == 4
        assert estimate.replicates[b] == pytest.approx(np.mean(parts))
    assert estimate.value == pytest.approx(np.mean([auc(m[0], n[0]) for m, n in zip(scores.members, scores.nonmembers, strict=True)]))


def test_interval_covers_the_true_auc_about_as_often_as_stated():
    from scipy.stats import norm

    rng, hits, trials = np.random.default_rng(1), 0, 100
    true = norm.cdf(0.5 / np.sqrt(2))
    for trial in range(trials):
        scores = normal_scores(rng, 10, 20, 0.5)
        low, high = HierarchicalBootstrap(scores.sizes, 200, seed=trial).auc(scores).interval()
        hits += low <= true <= high
    assert hits >= 90  # conservative by design: images are resampled within resampled domains


def test_the_change_of_a_model_against_itself_is_exactly_zero(rng):
    scores = normal_scores(rng, 3, 10, 0.4)
    bootstrap = HierarchicalBootstrap(scores.sizes, 100, seed=0)
    change = bootstrap.auc(scores) - bootstrap.auc(scores)
    assert change.interval() == (0, 0)


def test_seeds_are_averaged_within_a_domain(rng):
    one, two = normal_scores(rng, 3, 10, 0.4), normal_scores(rng, 3, 10, 0.9)
    both = Scores(
        [np.concatenate(pair) for pair in zip(one.members, two.members, strict=True)],
        [np.concatenate(pair) for pair in zip(one.nonmembers, two.nonmembers, strict=True)],
    )
    bootstrap = HierarchicalBootstrap(one.sizes, 100, seed=0)
    for metric in (bootstrap.auc, bootstrap.tpr):
        assert metric(both).value == pytest.approx((metric(one).value + metric(two).value) / 2)


def test_tpr_is_pooled_only_where_domains_are_small(rng):
    small, large = normal_scores(rng, 3, 20, 0.5), normal_scores(rng, 3, 120, 0.5)
    pooled = HierarchicalBootstrap(small.sizes, 100, seed=0)
    assert pooled.pooled()
    assert pooled.tpr(small).value == pytest.approx(
        brute_tpr(np.concatenate(small.members, 1)[0], np.concatenate(small.nonmembers, 1)[0], 0.01)
    )
    single = HierarchicalBootstrap(large.sizes, 100, seed=0)
    assert not single.pooled()
    each = [brute_tpr(m[0], n[0], 0.01) for m, n in zip(large.members, large.nonmembers, strict=True)]
    assert single.tpr(large).value == pytest.approx(np.mean(each))


def test_blind_baseline_sees_a_style_and_nothing_else(rng):
    same = auc(*blind_scores(rng.normal(0, 1, (200, 5)), rng.normal(0, 1, (200, 5)), 5, 0))
    other = auc(*blind_scores(rng.normal(0, 1, (200, 5)), rng.normal(1.5, 1, (200, 5)), 5, 0))
    assert abs(same - 0.5) < 0.1
    assert other > 0.95
