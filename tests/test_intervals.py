from itertools import product

import numpy as np
import pytest
from scipy.special import ndtr
from scipy.stats import false_discovery_control, nct, ttest_1samp, ttest_rel
from sklearn.metrics import roc_auc_score

from s2llib.metrics.images import accuracy_sample, auc_sample, combined, image_bootstrap, mean_sample, over_images
from s2llib.metrics.intervals import Estimate, change, cluster_bootstrap, interval, least, linear_trend, pooled_tpr, standardised
from s2llib.metrics.multiplicity import holm, p_adjusted
from s2llib.metrics.roc import tpr_at_fpr
from s2llib.params import ParamsError

IMAGES, SHIFT, SPREAD = 32, 0.5, 0.4  # the shift of members' scores is normal over people
TRUE_LEVEL = ndtr(SHIFT / np.sqrt(2 + SPREAD**2))


@pytest.fixture
def rng():
    return np.random.default_rng(0)


# coverage: people with different true AUCs, 32 + 32 images each, scores before and after a change of nothing correlated by 0.9


def simulated(tables: int, people: int, seed: int) -> list[np.ndarray]:
    """Scores before and after [tables, people, 64], the members' first."""
    rng = np.random.default_rng(seed)
    shift = np.repeat([1.0, 0.0], IMAGES) * rng.normal(SHIFT, SPREAD, (tables, people, 1))
    own, other = rng.normal(size=(2, tables, people, 2 * IMAGES))
    return [shift + own, shift + 0.9 * own + np.sqrt(1 - 0.9**2) * other]


def aucs(scores: np.ndarray) -> np.ndarray:
    """[tables, people]"""
    ranks = scores.argsort(axis=-1).argsort(axis=-1)[..., :IMAGES]
    return (ranks.sum(-1) - IMAGES * (IMAGES - 1) / 2) / IMAGES**2


def old_intervals(orders: np.ndarray, replicates: int = 200) -> np.ndarray:
    """[2, tables]: the ends that `HierarchicalBootstrap`, which this replaces, gave for orders of pairs [tables, people, m, n]."""
    rng, (tables, people, m, n) = np.random.default_rng(0), orders.shape
    chosen, total = rng.integers(people, size=(replicates, people)), np.zeros((tables, replicates))
    for d in range(people):
        rows = np.nonzero(chosen == d)[0]
        wm, wn = (rng.multinomial(k, np.full(k, 1 / k), size=len(rows)).astype(float) for k in (m, n))
        np.add.at(total, (slice(None), rows), ((wm @ orders[:, d]) * wn).sum(-1) / (m * n * people))
    return np.quantile(total, [0.025, 0.975], axis=1)


def orders(scores: np.ndarray) -> np.ndarray:
    return (scores[..., :IMAGES, None] > scores[..., None, IMAGES:]).astype(float)


@pytest.mark.parametrize("people", [40, 8])
def test_intervals_cover_as_often_as_they_say_and_one_change_in_forty_rises_by_chance(people):
    before, after = (aucs(scores) for scores in simulated(2000, people, seed=people))
    levels = [interval(x) for x in after]
    assert 0.93 < np.mean([x.low <= TRUE_LEVEL <= x.high for x in levels]) < 0.97
    changes = [change(a, b) for a, b in zip(before, after, strict=True)]
    assert 0.93 < np.mean([x.low <= 0 <= x.high for x in changes]) < 0.97
    assert 0.01 < np.mean([x.rises for x in changes]) < 0.04


@pytest.mark.parametrize("people", [40, 8])
def test_the_two_stage_bootstrap_covers_more_than_it_says_and_is_a_third_too_wide(people):
    scores = simulated(400, people, seed=people)
    low, high = old_intervals(orders(scores[1]) - orders(scores[0]))
    assert np.mean((low <= 0) & (high >= 0)) > 0.97
    assert np.mean(low > 0) < 0.01
    new = [change(a, b) for a, b in zip(*map(aucs, scores), strict=True)]
    assert np.mean(high - low) > (1.3 if people == 40 else 1.0) * np.mean([x.high - x.low for x in new])


def crossed(rng, domains, trainings, deviations, tables=2000):
    """Values [tables, domains, trainings] with mean zero; deviations: of domains, of trainings, of the rest."""
    shapes = (tables, domains, 1), (tables, 1, trainings), (tables, domains, trainings)
    return sum(sd * rng.normal(size=shape) for sd, shape in zip(deviations, shapes, strict=True))


@pytest.mark.parametrize(("domains", "deviations"), [(8, (1, 0.5, 1)), (40, (1, 0.2, 1)), (8, (1, 0, 1)), (8, (1, 1, 0.5))])
def test_the_crossed_interval_covers_new_people_and_new_trainings(rng, domains, deviations):
    found = [interval(x) for x in crossed(rng, domains, 4, deviations)]
    assert 0.93 < np.mean([x.low <= 0 <= x.high for x in found]) < 0.975
    assert {x.trainings for x in found} == {4}


def test_people_alone_do_not_cover_new_trainings(rng):
    found = [interval(x.mean(axis=1)) for x in crossed(rng, 40, 4, (1, 0.5, 1))]
    assert np.mean([x.low <= 0 <= x.high for x in found]) < 0.85


def test_a_second_training_of_some_people_is_still_covered(rng):
    values = crossed(rng, 40, 4, (1, 0.3, 1))
    values[:, 12:, 2:] = np.nan
    found = [interval(x) for x in values]
    assert 0.93 < np.mean([x.low <= 0 <= x.high for x in found]) < 0.97
    assert found[0].value == pytest.approx(np.nanmean(values[0], axis=1).mean())
    assert (found[0].n, found[0].trainings) == (40, 4)


@pytest.mark.parametrize("people", [40, 8])
def test_the_pooled_tpr_of_new_people_is_covered(people):
    rng, wide = np.random.default_rng(people), np.random.default_rng(1)
    shift = wide.normal(SHIFT, SPREAD, 1_000_000)
    truth = np.mean(shift + wide.normal(size=len(shift)) > 2.3263)  # what 1 % of non-members exceed
    hits = []
    for _ in range(200):
        members, nonmembers = rng.normal(rng.normal(SHIFT, SPREAD, (people, 1)), 1, (people, 32)), rng.normal(size=(people, 32))
        found = cluster_bootstrap(pooled_tpr(list(members), list(nonmembers)), people, replicates=300)
        hits.append(found.low <= truth <= found.high)
    assert 0.9 < np.mean(hits) < 0.99


# one value


def test_interval_is_the_t_interval_and_change_the_paired_t_test(rng):
    before, after = rng.normal(size=(2, 9))
    theirs = ttest_1samp(after, 0).confidence_interval(0.9)
    mine = interval(after, 0.9)
    assert (mine.low, mine.high) == pytest.approx(tuple(theirs))
    assert mine.p is None
    assert change(before, after).p == pytest.approx(ttest_rel(after, before).pvalue)
    assert change(before, after).method == "t over 9 domains, one training"


def test_intervals_move_with_the_values_and_turn_with_their_sign(rng):
    values = rng.normal(size=(7, 3))
    first, moved, turned = interval(values), interval(5 - 2 * values), change(values, 0)
    assert (moved.low, moved.high, moved.se, moved.df) == pytest.approx((5 - 2 * first.high, 5 - 2 * first.low, 2 * first.se, first.df))
    assert (turned.low, turned.high, turned.p) == pytest.approx((-first.high, -first.low, change(0, values).p))


@pytest.mark.parametrize("level", [0.8, 0.95, 0.99])
def test_p_is_below_alpha_exactly_where_zero_is_excluded(rng, level):
    def agree(found: Estimate) -> bool:
        return (found.p < 1 - level) == (found.rises or found.falls)

    for _ in range(200):
        assert agree(change(0, rng.normal(0.5, 1, (6, rng.integers(1, 4))), level))
        assert agree(over_images(auc_sample(*rng.normal(size=(2, 20))) - auc_sample(*rng.normal(size=(2, 20))), level, null=0))
        assert agree(interval(np.full(6, rng.normal()), level, null=0, unit=1))
        auc = over_images(auc_sample(rng.normal(0.5, 1, 20), rng.normal(size=20)), level, null=0.5, bounds=(0, 1))
        assert (auc.p < 1 - level) == (not auc.low <= 0.5 <= auc.high)


def test_one_training_in_a_column_is_the_t_interval_over_people(rng):
    values = rng.normal(size=8)
    assert interval(values[:, None]) == interval(values)
    assert interval(values).trainings == 1
    lone = np.full((8, 2), np.nan)
    lone[:, 0], lone[0, 1] = values, values[0]
    found = interval(lone)
    assert (found.low, found.high) == pytest.approx((interval(values).low, interval(values).high))
    assert (found.trainings, found.method) == (1, "t over 8 domains, trainings averaged")


def test_a_domain_without_a_value_is_left_out_of_levels_and_of_pairs(rng):
    before, after = rng.normal(size=(2, 6))
    before[0], after[5] = np.nan, np.nan
    assert change(before, after) == change(before[1:5], after[1:5])
    assert (interval(after).n, change(before, after).n) == (5, 4)
    with pytest.raises(ValueError, match="infinite"):
        interval(np.array([1.0, np.inf, 2.0]))


def test_one_person_and_no_person_have_no_interval_over_people():
    one, none = change(np.array([0.5]), np.array([0.7])), interval(np.array([np.nan]))
    assert one.value == pytest.approx(0.2)
    assert np.isnan([one.low, one.high, none.value, one.visible()]).all()
    assert not (one.rises or one.falls)
    assert cluster_bootstrap(lambda w: w[:, 0], 1).method == "no interval over one domain"


@pytest.mark.parametrize(
    ("value", "bounds", "expected"),
    [(0, (0, np.inf), (0, 3.0 / 8)), (1, (0, 1), (1 - 3.0 / 8, 1)), (0, (-np.inf, np.inf), (-3.69 / 8, 3.69 / 8))],
)
def test_equal_values_have_the_interval_of_the_rule_of_three(value, bounds, expected):
    found = interval(np.full(8, value), bounds=bounds, unit=1)
    assert (found.low, found.high) == pytest.approx(expected, abs=1e-3)
    assert found.method == "rule of three over 8 domains"
    assert np.isnan(interval(np.full(8, value), bounds=bounds).high), "without a unit nothing is known"


@pytest.mark.parametrize(("mean", "least", "most"), [(0.02, 0.99, 1), (0.2, 0.99, 1), (0.5, 0.87, 0.93), (5, 0.93, 0.96)])
def test_counts_are_covered_but_for_about_four_among_all_people(rng, mean, least, most):
    found = [interval(x, bounds=(0, np.inf), unit=1) for x in rng.poisson(mean, (2000, 8))]
    assert least <= np.mean([x.low <= mean <= x.high for x in found]) <= most


def test_differences_by_rounding_are_no_change():
    before = np.array([0.1 + 0.2, 0.7, 0.4])
    assert change(before, np.array([0.3, 0.7, 0.4])).p == 1


def test_an_interval_is_cut_to_what_the_value_can_be():
    found = interval(np.array([0.9, 1.0, 1.0]), bounds=(0, 1))
    assert found.high == 1
    assert found.low == interval(np.array([0.9, 1.0, 1.0])).low


@pytest.mark.parametrize(("df", "level"), [(1, 0.95), (7, 0.95), (7, 0.99375), (39, 0.95), (1e9, 0.95)])
def test_the_smallest_visible_change_is_seen_four_times_in_five(df, level):
    visible = Estimate(0, 0, 0, level, 8, 1, "", se=0.1, df=df).visible()
    critical = nct.ppf((1 + level) / 2, df, 0)
    assert nct.sf(critical, df, visible / 0.1) == pytest.approx(0.8, abs=1e-6)


def test_a_change_of_the_visible_size_is_seen_four_times_in_five(rng):
    visible = Estimate(0, 0, 0, 0.95, 8, 1, "", se=1 / np.sqrt(8), df=7).visible()
    assert np.mean([change(0, rng.normal(visible, 1, 8)).rises for _ in range(2000)]) == pytest.approx(0.8, abs=0.03)


def test_the_least_of_two_leads_rises_only_where_both_do(rng):
    first, second = interval(np.array([0.1, 0.2, 0.15])), interval(np.array([0.3, -0.3, 0.4]))
    both = least(first, second)
    assert both.value == min(first.value, second.value)
    assert first.rises and not both.rises
    pairs = [least(interval(a), interval(b)) for a, b in rng.normal((0, 1), (1, 1), (1000, 8, 2)).transpose(0, 2, 1)]
    assert np.mean([x.rises for x in pairs]) < 0.035


def test_a_trend_is_that_of_the_least_squares_line(rng):
    values = rng.normal(size=(5, 3))
    assert linear_trend(values) == pytest.approx(4 * np.polyfit(np.arange(5), values, 1)[0])


# domains drawn whole


def test_the_pooled_tpr_is_that_of_the_pooled_scores_with_ties_and_seeds(rng):
    members = [rng.normal(0.5, 1, (2, 20)).round(1) for _ in range(6)]
    others = [rng.normal(0, 1, (2 - d % 2, 30)).round(1) for d in range(6)]
    members[1] = members[1][:1]
    weights = np.vstack([np.ones(6), rng.multinomial(6, np.full(6, 1 / 6), size=40)])
    pick = lambda side, seed: np.concatenate([x[seed % len(x)] for x in side])  # noqa: E731
    counts = [np.repeat(weights, k, axis=1) for k in (20, 30)]
    for fpr in (0.01, 0.2, 1):
        expected = np.mean([tpr_at_fpr(pick(members, seed), pick(others, seed), fpr, *counts) for seed in (0, 1)], axis=0)
        np.testing.assert_allclose(pooled_tpr(members, others, fpr)(weights), expected)


def test_the_cluster_bootstrap_of_a_mean_is_nearly_its_t_interval(rng):
    values = rng.normal(size=20)
    mean = lambda w: w @ values / w.sum(axis=1)  # noqa: E731
    found, exact = cluster_bootstrap(mean, 20, null=0, replicates=4000), change(0, values)
    assert found.value == pytest.approx(exact.value)
    assert (found.se, found.p) == pytest.approx((exact.se, exact.p), rel=0.06)
    assert np.isnan(cluster_bootstrap(lambda w: w[:, 0] * 0, 20).low)


def test_standardised_scores_have_no_unit_and_need_two_reference_scores(rng):
    scores, reference = rng.normal(3, 2, (2, 9)), rng.normal(3, 2, (2, 50))
    np.testing.assert_allclose(standardised(7 * scores + 1, 7 * reference + 1), standardised(scores, reference))
    assert standardised(reference, reference).std(axis=1, ddof=1) == pytest.approx(1)
    for flat in (np.ones((2, 5)), np.ones((2, 1))):
        with pytest.raises(ParamsError, match="generate more images for it"):
            standardised(scores, flat)


# images of one domain


@pytest.mark.parametrize("shift", [0, 1, 2])
def test_the_interval_over_images_covers_a_persons_auc_also_near_one(rng, shift):
    truth, hits = ndtr(shift / np.sqrt(2)), []
    for _ in range(1000):
        found = over_images(auc_sample(rng.normal(shift, 1, 32), rng.normal(size=32)), bounds=(0, 1))
        hits.append(found.low <= truth <= found.high)
    assert 0.93 < np.mean(hits) < 0.97


def test_placements_give_scikit_learns_auc_and_ties_count_half(rng):
    members, others = rng.integers(0, 5, 12), rng.integers(0, 4, 9)
    truth = np.repeat([1, 0], [12, 9])
    assert auc_sample(members, others).value == pytest.approx(roc_auc_score(truth, np.concatenate([members, others])))
    assert accuracy_sample(members, others, 2).value == pytest.approx(((members > 2).mean() + (others <= 2).mean()) / 2)
    seeds = rng.normal(size=(2, 3, 8))
    assert auc_sample(*seeds).value == pytest.approx(np.mean([auc_sample(a, b).value for a, b in zip(*seeds, strict=True)]))


def test_an_auc_of_one_is_no_certainty():
    found = over_images(auc_sample(np.arange(30) + 99, np.arange(30)), bounds=(0, 1))
    assert (found.high, found.method) == (1, "rule of three over images of one domain")
    assert found.low == pytest.approx(1 - 3 / 30, abs=1e-3)


def test_two_targets_that_swap_their_photographs_are_paired_by_photograph(rng):
    easy, hard = rng.normal(1, 1, 30), rng.normal(0, 1, 30)  # a score that knows the photograph and not the membership
    blind = combined([auc_sample(easy, hard, ("a", "b")), auc_sample(hard, easy, ("b", "a"))], [0.5, 0.5])
    assert blind.value == pytest.approx(0.5)
    assert all(np.ptp(each) < 1e-12 for each in blind.influence.values())


def test_a_change_on_the_same_images_is_paired_and_on_others_is_not(rng):
    members, others = rng.normal(size=(2, 30))
    same = auc_sample(members, others) - auc_sample(members + 0.1 * rng.normal(size=30), others)
    apart = auc_sample(members, others) - auc_sample(*rng.normal(size=(2, 40)), ("more members", "more others"))
    assert over_images(same).se < over_images(apart).se / 3
    with pytest.raises(ValueError, match="called members and have 30 and 40 images"):
        auc_sample(members, others) - auc_sample(*rng.normal(size=(2, 40)))
    assert over_images(mean_sample(members)).se == pytest.approx(members.std(ddof=1) / np.sqrt(30))


def test_the_image_bootstrap_resamples_each_set_for_itself(rng):
    x, y = rng.normal(size=20) + 2, rng.normal(size=30)
    found = image_bootstrap(lambda a, b: a @ x / 20 - b @ y / 30, 20, 30, null=0, replicates=2000)
    assert found.value == pytest.approx(x.mean() - y.mean())
    assert found.se == pytest.approx((x.var() / 20 + y.var() / 30) ** 0.5, rel=0.05)
    assert 0 < found.low < found.value < found.high
    assert found.p < 0.05
    assert (found.n, found.method) == (1, "bootstrap over images of one domain")


# families


def test_holm_by_hand():
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(holm([0.01, np.nan, 0.04]), [0.02, np.nan, 0.04])


def test_holm_is_monotone_lies_between_p_and_bonferroni_and_above_benjamini_hochberg(rng):
    for _ in range(50):
        p = rng.uniform(size=rng.integers(1, 12)) ** 3
        adjusted, order = holm(p), p.argsort()
        assert (np.diff(adjusted[order]) >= 0).all()
        assert (adjusted >= p).all() and (adjusted <= np.minimum(1, len(p) * p) + 1e-15).all()
        assert (adjusted >= false_discovery_control(p) - 1e-15).all()


def related(rng, tables: int, domains: int, tests: int = 8) -> np.ndarray:
    """Changes of nothing [tables, tests, domains], correlated by 0.5 over tests."""
    return np.sqrt(0.5) * (rng.normal(size=(tables, 1, domains)) + rng.normal(size=(tables, tests, domains)))


@pytest.mark.parametrize(("domains", "method"), [(40, "max-T over 40 domains"), (8, "Holm (8 domains are too few for sign flips)")])
def test_in_one_table_of_forty_anything_rises_by_chance(domains, method):
    false = []
    for changes in related(np.random.default_rng(domains), 600, domains):
        found = [change(0, x) for x in changes]
        family = p_adjusted([x.p for x in found], changes)
        false.append(any(p < 0.05 and x.value > 0 for p, x in zip(family.p, found, strict=True)))
    assert family.method == method
    assert 0.01 < np.mean(false) < 0.05


def test_max_t_is_the_share_of_all_sign_flips_and_steps_down(rng):
    changes = rng.normal([[1.2], [0.5], [0]], 1, (3, 12))
    family = p_adjusted([0, 0, 0], changes)
    signs = np.array(list(product([1, -1], repeat=12)))
    t = np.abs([ttest_1samp(signs * x, 0, axis=1).statistic for x in changes])
    order, expected = np.argsort(-t[:, 0]), np.zeros(3)
    for i, test in enumerate(order):
        expected[test] = np.mean(t[order[i:]].max(axis=0) >= t[test, 0] - 1e-9)
    np.testing.assert_allclose(family.p[order], np.maximum.accumulate(expected[order]))


def test_tests_that_repeat_each_other_cost_nothing_under_max_t_and_a_factor_under_holm(rng):
    once = rng.normal(0.5, 1, 40)
    p, same = change(0, once).p, np.tile(once, (8, 1))
    assert p_adjusted([p] * 8, same).p == pytest.approx(p, rel=0.3, abs=2e-4)
    assert p_adjusted([p] * 8).p == pytest.approx(8 * p)
    assert p_adjusted([p] * 8, same).level < 0.96
    assert p_adjusted([p] * 8).level == pytest.approx(1 - 0.05 / 8)


def test_different_domains_and_tests_that_are_no_t_test_are_adjusted_by_holm(rng):
    changes = rng.normal(size=(2, 20))
    assert p_adjusted([0.1, 0.2]).method == "Holm (not all tests are t tests over domains)"
    changes[0, 3] = np.nan
    assert p_adjusted([0.1, 0.2], changes).method == "Holm (tests on different domains)"


def test_an_adjusted_p_is_never_below_its_own_and_no_change_has_one_of_one(rng):
    changes = np.vstack([rng.normal(0.4, 1, (5, 30)), np.zeros(30)])
    p = np.array([change(0, x).p for x in changes])
    family = p_adjusted(p, changes)
    assert (family.p >= p).all()
    assert family.p[5] == 1
