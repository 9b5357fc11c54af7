"""Statistical assertions with a stated rate of false alarms."""

import scipy.stats

FALSE_ALARM = 1e-6


def assert_rate_at_most(failures: int, trials: int, rate: float) -> None:
    """A correct implementation fails this with probability at most FALSE_ALARM, whatever the seed."""
    p_value = scipy.stats.binom.sf(failures - 1, trials, rate)
    assert p_value > FALSE_ALARM, f"{failures}/{trials} failures at allowed rate {rate}: p-value {p_value:.1e}"


def assert_rate_is(hits: int, trials: int, rate: float) -> None:
    """A correct implementation, whose hits are binomial at exactly `rate`, fails this with probability at most FALSE_ALARM."""
    p_value = scipy.stats.binomtest(hits, trials, rate).pvalue
    assert p_value > FALSE_ALARM, f"{hits}/{trials} hits at rate {rate}: p-value {p_value:.1e}"
