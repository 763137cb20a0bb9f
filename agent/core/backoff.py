"""[core] How long to wait after failures: full-jitter exponential back-off. Chance comes in as an argument."""


def pause_s(failures: int, chance: float, first_s: float, longest_s: float) -> float:
    """The pause after the `failures`-th failure in a row (≥ 1), in seconds; `chance` is uniform in [0, 1)."""
    bound = min(longest_s, first_s * 2.0 ** min(failures - 1, 64))
    return chance * bound


def asked_pause_s(asked_s: float, chance: float, first_s: float, longest_s: float) -> float:
    """The pause the other side asked for, at most `longest_s`, plus up to `first_s` so that not all come at once."""
    return min(max(asked_s, 0.0), longest_s) + chance * first_s
