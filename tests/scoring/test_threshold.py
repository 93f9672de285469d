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


@pytest.mark.parametrize(
    ("n", "rate", "rank"),
    [(19, 0.05, 19), (20, 0.05, 20), (38, 0.05, 38), (39, 0.05, 38), (99, 0.05, 95), (99, 0.29, 71), (9, 0.1, 9)],
)
def test_rank_of_the_threshold(n, rate, rank):
    threshold = threshold_from_ok(*held_out(n), rate)
    assert threshold.image == rank
    assert threshold.pixel == 100 * rank
    assert threshold.promised_rate == pytest.approx((n + 1 - rank) / (n + 1))
    assert threshold.promised_rate <= rate + 1e-12
    assert threshold.note == ""


def test_rank_is_the_textbook_quantile():
    """ceil((n + 1)(1 - alpha)) in exact arithmetic, over all n and whole percentages that allow it."""
    for percent in range(1, 100):
        for n in range(1, 150):
            exact = -((n + 1) * (percent - 100) // 100)
            rank, note = conformal_rank(n, percent / 100)
            assert (rank, note == "") == (min(exact, n), exact <= n)


@pytest.mark.parametrize("n", [1, 5, 18])
def test_too_few_images_fall_back_to_the_largest_and_say_what_that_promises(n):
    threshold = threshold_from_ok(*held_out(n), 0.05)
    assert threshold.image == n
    assert threshold.promised_rate == pytest.approx(1 / (n + 1))
    assert f"1/{n + 1}" in threshold.note and "needs 19" in threshold.note


@pytest.mark.parametrize("n", [10, 19, 60, 137])
@pytest.mark.parametrize("rate", [0.05, 0.2])
def test_average_false_alarm_rate_over_many_draws_keeps_the_promise(n, rate):
    rng = np.random.default_rng(n)
    draws = 3000
    alarms = np.empty(draws)
    for i in range(draws):
        cut = threshold_from_ok(scores := rng.normal(size=n), scores, rate)
        alarms[i] = stats.norm.sf(cut.image)  # the rate this threshold really has
    assert alarms.mean() == pytest.approx(cut.promised_rate, abs=4 * alarms.std() / math.sqrt(draws))
    low, high = cut.interval
    inside = ((alarms >= low) & (alarms <= high)).mean()
    assert inside == pytest.approx(0.9, abs=4 * math.sqrt(0.9 * 0.1 / draws))


def test_ties_only_lower_the_false_alarm_rate():
    rng = np.random.default_rng(0)
    alarms = []
    for _ in range(2000):
        scores = rng.integers(0, 4, 40).astype(float)
        alarms.append((rng.integers(0, 4, 40) > threshold_from_ok(scores, scores, 0.1).image).mean())
    assert np.mean(alarms) <= 0.1


def test_equal_scores_flag_none_of_their_kind():
    threshold = threshold_from_ok(torch.full((30,), 0.1), torch.full((30,), 0.3))
    assert not (torch.full((5,), 0.1) > threshold.image).any()  # float32 scores against the kept number
    assert not (torch.full((5,), 0.3) > threshold.pixel).any()


def test_pixel_threshold_leaves_at_most_the_promised_share_of_images_with_any_pixel_above():
    maps = torch.rand(100, 1, 8, 8, generator=torch.Generator().manual_seed(0)) ** 4
    maxima = maps.flatten(1).amax(1)
    threshold = threshold_from_ok(maxima, maxima, 0.05)
    assert (maps > threshold.pixel).flatten(1).any(1).sum() == 4  # the new image may be a fifth, of 101


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
    with pytest.raises(ValueError, match="2 image scores"):
        threshold_from_ok([1, 2], [1])


@pytest.mark.parametrize("rate", [0, 1, -0.1, 5, float("nan")])
def test_rates_outside_zero_and_one_are_refused(rate):
    with pytest.raises(UserError, match="false-alarm rate"):
        threshold_from_ok([1.0], [1.0], rate)


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


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"image": 1.0, "false_alarm_rate": 0.1}, "either"),
        ({"image": math.nan}, "finite"),
        ({"false_alarm_rate": 2.0}, "between"),
    ],
)
def test_a_threshold_is_not_moved_to_nonsense(asked, said):
    with pytest.raises(UserError, match=said):
        threshold_from_ok(*held_out(19), 0.05).moved(**asked)
