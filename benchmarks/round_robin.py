"""Timing of several variants in one process, a call of each in turn: a busy moment is busy for all."""

from collections.abc import Callable, Mapping
from statistics import median
from time import perf_counter
from typing import Any

Call = Callable[[], Any]


def seconds(call: Call) -> float:
    """One call's time. An untimed one goes before: each variant finds the caches as it leaves them."""
    call()
    start = perf_counter()
    call()
    return perf_counter() - start


class Rivals:
    """The variants that are timed before ours in each round."""

    def __init__(self, calls: Mapping[str, Call], ours: Call) -> None:
        self._calls = calls
        self._ours = ours
        self._seconds: dict[str, list[float]] = {name: [] for name in calls}

    def run(self) -> None:
        """Times each rival once, and leaves the caches as ours leave them."""
        for name, call in self._calls.items():
            self._seconds[name].append(seconds(call))
        self._ours()

    def medians(self) -> dict[str, float]:
        return {name: median(times) for name, times in self._seconds.items()}
