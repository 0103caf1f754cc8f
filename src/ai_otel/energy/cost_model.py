"""
The energy of an engine's step: `a + b·prefill + c·decoding + d·context`, fitted to the energy of bins while it runs.

A step of continuous batching reads the weights once (`a`), computes the tokens of prompts (`b` each) and of answers
(`c` each), and reads the cache (`d` for each token of context). For a cost of this form the fair share of a request,
its Shapley value, has a closed form: an equal part of `a`, and what is its own.

Before a fit exists, the roofline model gives the ratios for any model: one token computed costs about 1/200 of
reading the weights (the accelerators' balance of 130 to 400 operations a byte, weights and arithmetic of one width),
and one token of context read about 1/100 000 (8 B parameters, grouped queries).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from math import sqrt
from typing import NamedTuple


class Work(NamedTuple):
    """An amount of each kind of work; as a cost, joules for one of each."""

    steps: float
    prefill: float
    decoding: float
    context: float
    """Tokens of context that were read, over all steps."""

    def times(self, other: Work) -> float:
        """The sum of products."""
        a, b, c, d = self
        return a * other[0] + b * other[1] + c * other[2] + d * other[3]


PRIOR = Work(1.0, 1 / 200, 1 / 200, 1e-5)
"""Ratios only: shares need no more."""

_KINDS = range(4)
_SUBSETS = [subset for size in (4, 3, 2, 1) for subset in combinations(_KINDS, size)]


class StepCost:
    """
    The cost of a step, fitted by recursive non-negative least squares on bins.

    Old bins fade (half of their weight is gone after about 1000), and the prior is held on to with a thousandth of the
    data's weight, so that what the load does not distinguish stays at the roofline's ratio.
    """

    KEEP = 0.9993
    HOLD = 1e-3
    SOLVE_EVERY = 10
    ENOUGH = 30
    """Number of bins before the fit is used."""
    FAR = 3.0
    """Residuals are clipped at this multiple of their root mean square."""
    GOOD = 0.95
    """The least R² with which it is used: residuals of less than a quarter of the energy, root mean square."""

    def __init__(self) -> None:
        self._count = 0
        self._normal = [[0.0] * 4 for _ in _KINDS]
        self._moment = [0.0] * 4
        self._energy_sum = 0.0
        self._prior_sum = 0.0
        self._square_sum = 0.0
        self._residual_sum = 0.0
        self._judged = 0
        self._weight = 0.0
        self.fitted: Work | None = None

    @property
    def r2(self) -> float | None:
        """
        R² of the fit on bins that it had not seen; `None` before `ENOUGH` bins.

        Each bin is predicted before it is fitted. The cost has no constant term, so the total is taken around zero, not
        around the mean.
        """
        if self._judged < self.ENOUGH or self._square_sum == 0:
            return None
        return 1 - self._residual_sum / self._square_sum

    @property
    def trusted(self) -> bool:
        """Whether the fit is good enough for apportionment."""
        r2 = self.r2
        return r2 is not None and r2 >= self.GOOD

    @property
    def cost(self) -> Work:
        """The cost for apportionment: the fit if it is trusted, else the prior's ratios."""
        return self.fitted if self.fitted is not None and self.trusted else PRIOR

    def learn(self, work: Work, energy_j: float) -> None:
        """Fit one bin: its work, and its energy in joules."""
        if self.fitted is not None:
            predicted_j = self.fitted.times(work)
            miss_j = energy_j - predicted_j
            typical_j = sqrt(self._residual_sum / self._weight) if self._judged >= self.ENOUGH else float("inf")
            self._residual_sum = self.KEEP * self._residual_sum + miss_j * miss_j
            self._square_sum = self.KEEP * self._square_sum + energy_j * energy_j
            self._weight = self.KEEP * self._weight + 1
            self._judged += 1
            # A sample just before an update of the counter moves 0.1 s of energy to the next bin.
            energy_j = predicted_j + max(-self.FAR * typical_j, min(self.FAR * typical_j, miss_j))
        for row in _KINDS:
            self._moment[row] = self.KEEP * self._moment[row] + work[row] * energy_j
            for column in _KINDS:
                self._normal[row][column] = self.KEEP * self._normal[row][column] + work[row] * work[column]
        self._energy_sum = self.KEEP * self._energy_sum + energy_j
        self._prior_sum = self.KEEP * self._prior_sum + PRIOR.times(work)
        self._count += 1
        if self._count % self.SOLVE_EVERY == 0:
            self._solve()

    def _solve(self) -> None:
        if self._prior_sum <= 0:
            return
        scale = self._energy_sum / self._prior_sum
        # Of comparable size, or the smallest of the four drowns in rounding.
        units = [sqrt(self._normal[kind][kind]) or 1.0 for kind in _KINDS]
        normal = [[self._normal[i][j] / (units[i] * units[j]) for j in _KINDS] for i in _KINDS]
        moment = [self._moment[kind] / units[kind] for kind in _KINDS]
        for kind in _KINDS:
            held = self.HOLD if self._normal[kind][kind] else 1.0
            normal[kind][kind] += held
            moment[kind] += held * scale * PRIOR[kind] * units[kind]
        solution = non_negative(normal, moment)
        self.fitted = Work(*(value / unit for value, unit in zip(solution, units, strict=True)))


def non_negative(normal: Sequence[Sequence[float]], moment: Sequence[float]) -> list[float]:
    """Return the non-negative least squares solution, the best over every subset of non-zero values."""
    best, best_cost = [0.0] * 4, 0.0
    for subset in _SUBSETS:
        values = _solve_linear([[normal[i][j] for j in subset] for i in subset], [moment[i] for i in subset])
        if values is None or min(values) < 0:
            continue
        cost = -sum(value * moment[i] for value, i in zip(values, subset, strict=True))
        if cost < best_cost:
            best, best_cost = [0.0] * 4, cost
            for value, i in zip(values, subset, strict=True):
                best[i] = value
    return best


def _solve_linear(matrix: list[list[float]], right: list[float]) -> list[float] | None:
    """Gaussian elimination with pivots; `None` where there is no one solution."""
    rows = [[*row, value] for row, value in zip(matrix, right, strict=True)]
    size = len(rows)
    for column in range(size):
        pivot = max(range(column, size), key=lambda row: abs(rows[row][column]))
        rows[column], rows[pivot] = rows[pivot], rows[column]
        if abs(rows[column][column]) < 1e-12:
            return None
        for row in range(size):
            if row != column:
                factor = rows[row][column] / rows[column][column]
                rows[row] = [mine - factor * others for mine, others in zip(rows[row], rows[column], strict=True)]
    return [rows[row][size] / rows[row][row] for row in range(size)]
