"""Settle: what counts as standing still, how long it waits, what it records."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from android_env.appium.settle import SettleConfig, same_screen, settle
from android_env.faults import SettleTimeout
from android_env.testing.clock import FakeClock

GREY = np.full((200, 100, 3), 128, np.uint8)


def changed(rows, columns=slice(None), to=255):
    screen = GREY.copy()
    screen[rows, columns] = to
    return screen


def moving():
    return (changed(slice(50 + i % 9, 80 + i % 9)) for i in itertools.count())


def test_the_status_bar_noise_and_a_cursor_do_not_count():
    assert same_screen(GREY, changed(slice(0, 10)))
    assert same_screen(GREY, GREY + 10)
    assert same_screen(GREY, changed(slice(100, 110), slice(40, 41)))


def test_what_lies_below_the_status_bar_counts():
    assert not same_screen(GREY, changed(slice(10, 12)))
    assert not same_screen(GREY, changed(slice(150, 160), slice(0, 30)))
    assert not same_screen(GREY, changed(slice(0, 10)), SettleConfig(status_bar=0))
    assert not same_screen(GREY, GREY[:, ::-1][:99])


def test_brightness_that_wraps_around_in_uint8_is_a_difference():
    assert not same_screen(np.full_like(GREY, 250), np.full_like(GREY, 2))


def test_it_waits_for_n_stable_polls_and_says_how_long():
    frames = iter([changed(slice(20, 60)), changed(slice(60, 90)), GREY, GREY, GREY])
    clock = FakeClock()
    settled = settle(lambda: next(frames), SettleConfig(poll_s=0.5, stable_polls=2), clock)
    assert (settled.polls, settled.wait_s, settled.timed_out) == (5, 2.0, False)
    assert np.array_equal(settled.screenshot, GREY) and next(frames, None) is None


def test_a_still_screen_takes_one_poll_more_than_it_must_be_stable():
    for polls in (1, 3):
        assert settle(lambda: GREY, SettleConfig(stable_polls=polls), FakeClock()).polls == polls + 1


def test_a_moving_screen_ends_at_the_cap_and_is_recorded():
    frames = moving()
    settled = settle(lambda: next(frames), SettleConfig(poll_s=1, cap_s=6), FakeClock())
    assert settled.timed_out and settled.wait_s == 6 and settled.polls == 7


def test_a_moving_screen_is_a_fault_where_it_may_not_move():
    frames = moving()
    with pytest.raises(SettleTimeout, match="still changing after 6 s and 7 screenshots"):
        settle(lambda: next(frames), SettleConfig(poll_s=1, cap_s=6, allow_moving=False), FakeClock())


def test_slow_screenshots_count_towards_the_cap():
    clock, frames = FakeClock(), moving()

    def slow():
        clock.sleep(4)
        return next(frames)

    assert settle(slow, SettleConfig(poll_s=0, cap_s=6), clock).polls == 2


@pytest.mark.parametrize("wrong", [{"poll_s": -1}, {"stable_polls": 0}, {"status_bar": 1.0}, {"cap_s": -1}])
def test_senseless_configs_are_refused(wrong):
    with pytest.raises(ValueError, match="at least"):
        SettleConfig(**wrong)
