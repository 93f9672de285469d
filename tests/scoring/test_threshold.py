import json
import math

import numpy as np
import pytest
import torch
from scipy import stats

from anomalib_lite.errors import UserError
from anomalib_lite.scoring import Threshold, threshold_from_ok
from anomalib_lite.scoring.threshold import conformal_rank


def held_out(n):
    """Scores 1..n in an order of their own, pixel maxima a hundred times as large in another."""
    rng = np.random.default_rng(n)
    return rng.permutation(n) + 1.0, 100 * (rng.permutation(n) + 1.0)


def test_rank_is_the_textbook_quantile():
    """ceil((n + 1)(1 - alpha)) in exact arithmetic, over all n and whole percentages that allow it."""
    for percent in range(1, 100):
        for n in range(1, 150):
            exact = -((n + 1) * (percent - 100) // 100)
            rank, note = conformal_rank(n, percent / 100)
            assert (rank, note == "") == (min(exact, n), exact <= n)


@pytest.mark.parametrize("n", [1, 5, 18])
def test_both_thresholds_have_the_same_rank_and_too_few_images_fall_back_to_the_largest_and_say_what_that_promises(n):
    threshold = threshold_from_ok(*held_out(99), 0.29)
    assert (threshold.image, threshold.pixel, threshold.note) == (71, 7100, "")
    assert threshold.promised_rate == pytest.approx(29 / 100)
    threshold = threshold_from_ok(*held_out(n), 0.05)
    assert threshold.image == n and threshold.promised_rate == pytest.approx(1 / (n + 1))
    assert f"1/{n + 1}" in threshold.note and "needs 19" in threshold.note


@pytest.mark.parametrize(("n", "rate"), [(10, 0.2), (19, 0.05), (137, 0.05)])
def test_average_false_alarm_rate_over_many_draws_keeps_the_promise(n, rate):
    rng = np.random.default_rng(n)
    draws = 3000
    cuts = [threshold_from_ok(scores := rng.normal(size=n), scores, rate) for _ in range(draws)]
    alarms, cut = stats.norm.sf([cut.image for cut in cuts]), cuts[-1]  # the rates that the thresholds really have
    assert alarms.mean() == pytest.approx(cut.promised_rate, abs=4 * alarms.std() / math.sqrt(draws))
    low, high = cut.interval
    inside = ((alarms >= low) & (alarms <= high)).mean()
    assert inside == pytest.approx(0.9, abs=4 * math.sqrt(0.9 * 0.1 / draws))


def test_equal_scores_flag_none_of_their_kind():
    score, peak = torch.full((30,), 0.1), torch.full((30,), 0.3)  # float32, against the kept numbers
    threshold = threshold_from_ok(score, peak)
    assert not (score > threshold.image).any() and not (peak > threshold.pixel).any()


def test_goes_through_json_unchanged():
    threshold = threshold_from_ok(torch.rand(30, generator=torch.Generator().manual_seed(1)), np.arange(30) / 7)
    text = json.dumps(threshold.to_dict(), allow_nan=False)
    assert Threshold.from_dict(json.loads(text)) == threshold


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_scores_that_are_no_numbers_are_refused(bad):
    with pytest.raises(UserError, match="score of 1 of 3"):
        threshold_from_ok([0.1, bad, 0.2], [1, 1, 1])
    with pytest.raises(UserError, match="largest map pixel of 1 of 3"):
        threshold_from_ok([1, 1, 1], [0.1, bad, 0.2])
    with pytest.raises(UserError, match="held-out OK images"):
        threshold_from_ok([], [])


def test_another_rate_gives_what_the_same_images_would_have_given_at_once():
    first = threshold_from_ok(*held_out(99), 0.05)
    again = Threshold.from_dict(json.loads(json.dumps(first.to_dict())))
    assert again.moved(false_alarm_rate=0.2) == threshold_from_ok(*held_out(99), 0.2)
    assert again.moved() is again
    assert again.moved(false_alarm_rate=0.001).in_words().endswith("promises 1/100 = 0.01.")


def test_a_given_threshold_says_what_held_out_images_make_of_it():
    moved = threshold_from_ok(*held_out(99), 0.05).moved(image=89.5)  # ten of 1..99 lie above
    assert (moved.image, moved.given) == (89.5, True)
    assert moved.promised_rate == pytest.approx(11 / 100)
    low, high = moved.interval
    assert (low, high) == pytest.approx((stats.beta.ppf(0.05, 10, 90), stats.beta.ppf(0.95, 11, 89)))
    assert moved.pixel == pytest.approx(8950)  # the same rank among the maxima
    assert "nothing is guaranteed" in moved.in_words()
    assert threshold_from_ok(*held_out(99), 0.05).moved(image=198.0).pixel == pytest.approx(19800)
    lowest = threshold_from_ok(*held_out(19), 0.05).moved(image=0.5)  # flags everything
    assert lowest.promised_rate == 1 and lowest.interval == pytest.approx((0.05 ** (1 / 19), 1))


def test_a_pixel_threshold_of_another_rule_stays_where_the_images_moves():
    ruled = threshold_from_ok(*held_out(99), 0.05).with_pixel(7.0, "no rate for pixels")
    ruled = Threshold.from_dict(json.loads(json.dumps(ruled.to_dict())))
    for moved in (ruled.moved(image=89.5), ruled.moved(false_alarm_rate=0.001)):
        assert moved.pixel == 7.0 and moved.note.endswith("no rate for pixels") and moved.image != ruled.image


def test_a_threshold_is_not_moved_to_nonsense():
    for asked, said in (({"image": 1.0, "false_alarm_rate": 0.1}, "either"), ({"image": math.nan}, "finite")):
        with pytest.raises(UserError, match=said):
            threshold_from_ok(*held_out(19), 0.05).moved(**asked)
