"""Length-controlled win rates, after AlpacaEval 2 (Dubois et al. 2024, arXiv 2404.04475). numpy only."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from raydaa.evaluation.win_rate import bootstrap_indices

GAMED_WEIGHT = 0.1  # of a row that compares the baseline with its own rewrite
MOST_STEPS = 100
CONVERGED = 1e-6  # Newton's last step: what it leaves is of its square
FACTORS = 1000  # of a half each, and their product is still a number
CHUNK = 50  # bootstrap draws fitted at a time: their arrays stay in the processor's cache
CLIP = (0.02, 0.98)  # of a mean preference, before its logit says how difficult a prompt is
FEWEST_OTHERS = 5
FEWEST_SHARE = 0.05  # of prompts with answers as short, and as long, as the baseline's
MOST_ERRORS = 3.0  # of the win rate, that a length-controlled one may have
UNENDED = 0.01  # share of draws without an end from which it is said
ALIKE = 0.3  # correlation of lengths from which difficulty by other models takes length for difficulty


@dataclass(frozen=True)
class LengthControlled:
    """The win rate in percent that a model would have with answers as long as the baseline's.

    ``standard_error`` is by bootstrap over prompts; ``predicted_error`` is AlpacaEval's, the spread of the fitted
    preferences, about half as large: published figures compare with this one alone. ``coefficients`` are those of
    length, difficulty and model. All are None where it is not estimable, which ``variant`` says.

    ``alike`` is the mean correlation of its answers' lengths with those of the models that its difficulty is from: the
    higher, the more of length is taken for difficulty. Where it is high, ``alone`` is the value without difficulty, and
    ``alone_error`` its standard error.
    """

    value: float | None
    standard_error: float | None
    predicted_error: float | None
    coefficients: dict[str, float] | None
    variant: str
    prompts: int
    alike: float | None = None
    alone: float | None = None
    alone_error: float | None = None


@dataclass(frozen=True)
class _Rows:
    """Own rows, ``(draws, n)``, and gamed ones, ``(m,)``: length term, difficulty, preference."""

    length: np.ndarray
    difficulty: np.ndarray
    preference: np.ndarray
    gamed_length: np.ndarray
    gamed_difficulty: np.ndarray
    gamed_preference: np.ndarray

    @property
    def used(self) -> np.ndarray:
        """Which of the three columns have anything but zeros."""
        some = [a.any() or b.any() for a, b in self.columns]
        return np.array([*some, True])

    @property
    def columns(self) -> list[tuple[np.ndarray, np.ndarray]]:
        return [(self.length, self.gamed_length), (self.difficulty, self.gamed_difficulty)]

    def of(self, draws: np.ndarray) -> "_Rows":
        """Own rows of these draws alone."""
        own = {name: getattr(self, name)[draws] for name in ("length", "difficulty", "preference")}
        return replace(self, **own)


def length_controlled_win_rate(
    preference: Sequence[float] | np.ndarray,
    model_length: Sequence[float] | np.ndarray,
    baseline_length: Sequence[float] | np.ndarray,
    difficulty: Sequence[float] | np.ndarray | None = None,
    gamed: Any = None,
    C: float | None = None,  # noqa: N803, its name everywhere
    draws: int = 1000,
    seed: int = 0,
) -> LengthControlled:
    """Fit preferences by length, difficulty and model, and take the length out.

    ``preference`` (``(prompts,)``, in [0, 1]) is the model's against the baseline, lengths are in characters,
    ``difficulty`` has a value per prompt. ``gamed`` are rows of the baseline against its own rewrites, which hold the
    coefficient of length: a mapping of columns ``baseline_variant``, ``index`` (the prompt's row), ``len_1`` (the
    baseline's), ``len_2`` and ``pseudo_preference``. With ``C`` the coefficients are those that AlpacaEval's own solver
    leaves with this L1 penalty, for comparison with published figures. ValueError where the columns are of other
    lengths, or a preference is out of range; ModuleNotFoundError where ``C`` lacks scikit-learn.
    """
    p, own, other = (np.asarray(values, float) for values in (preference, model_length, baseline_length))
    g = np.zeros_like(p) if difficulty is None else np.asarray(difficulty, float)
    if not p.size or any(values.shape != p.shape or p.ndim != 1 for values in (own, other, g)):
        raise ValueError("preference, model_length, baseline_length and difficulty need one value for each prompt")
    if not ((p >= 0) & (p <= 1)).all():
        raise ValueError("a preference is not between 0 and 1")
    rewrites = _gamed_rows(gamed, g)
    variant = _variant(difficulty is not None, gamed is not None, C)

    def rows(chosen: np.ndarray) -> _Rows:
        return _Rows(_length_term((other - own)[chosen]), g[chosen], p[chosen], *rewrites)

    every = rows(np.arange(p.size)[None])
    weights = _fit(every, np.zeros((1, 3))) if C is None else _as_published(every, C)
    refused = LengthControlled(None, None, None, None, variant, p.size)
    if np.isnan(weights).any():
        return replace(refused, variant=f"{variant}; not estimable: the fit has no end")
    if gamed is None and (rare := _rare_length(own, other)) is not None:
        return replace(refused, variant=f"{variant}; not estimable: hardly an answer is as {rare} as the baseline's")
    drawn = bootstrap_indices(p.size, draws, seed)
    again = []
    for begin in range(0, draws, CHUNK):
        part = rows(drawn[begin : begin + CHUNK])
        again.append(_value(part, _fit(part, np.repeat(weights, len(part.length), 0))))
    spread = np.concatenate(again)
    ended = ~np.isnan(spread)
    error = float(spread[ended].std(ddof=1)) if ended.sum() > 1 else None
    plain = 100 * float(p.std(ddof=1)) / float(np.sqrt(p.size)) if p.size > 1 else 0.0
    if error is not None and error > MOST_ERRORS * plain > 0:
        return replace(refused, variant=f"{variant}; not estimable: ± {1.96 * error:.0f} points")
    if ended.mean() < 1 - UNENDED:
        variant = f"{variant}; in {100 * (1 - ended.mean()):.0f} % of bootstrap draws the fit had no end"
    fitted = _at_equal_length(every, weights)[0]
    return LengthControlled(
        float(_value(every, weights)[0]),
        error,
        100 * float(fitted.std(ddof=1)) / float(np.sqrt(p.size)) if p.size > 1 else None,
        dict(zip(("length", "difficulty", "model"), weights[0].tolist(), strict=True)),
        variant,
        p.size,
    )


def _rare_length(own: np.ndarray, other: np.ndarray) -> str | None:
    """Which lengths of the baseline's the model has hardly any of: what it would be at equal length is a guess."""
    if (own <= other).mean() < FEWEST_SHARE:
        return "short"
    if (own >= other).mean() < FEWEST_SHARE:
        return "long"
    return None


def length_correlation(lengths: np.ndarray, others: np.ndarray, baseline: np.ndarray) -> float | None:
    """Mean correlation of a model's length terms with those of other models, ``(models, prompts)``; None where either
    never varies."""
    own = _length_term(baseline - lengths)
    known = [np.corrcoef(own, term)[0, 1] for term in _length_term(baseline - others) if term.std() > 0 < own.std()]
    return float(np.mean(known)) if known else None


def difficulty_of(others: np.ndarray) -> np.ndarray | None:
    """How hard prompts are for models like the one in question, where nobody published it.

    ``others`` are the *other* models' preferences against the same baseline, ``(models, prompts)``, NaN where one was
    not judged on a prompt; 0 for a prompt that fewer than five were judged on, None where that holds for all.
    """
    judged = ~np.isnan(others)
    enough = judged.sum(axis=0) >= FEWEST_OTHERS
    if not enough.any():
        return None
    total = np.where(judged, others, 0.0).sum(axis=0)
    mean = np.clip(np.divide(total, judged.sum(axis=0), out=np.full(total.shape, 0.5), where=enough), *CLIP)
    return np.where(enough, np.log(mean / (1 - mean)), 0.0)


def _variant(difficulty: bool, gamed: bool, penalty: float | None) -> str:
    parts = ["with difficulty" if difficulty else "without difficulty"]
    parts.append("with the baseline's rewrites" if gamed else "without the baseline's rewrites")
    if penalty is not None:
        parts.append(f"L1 penalty, C = {penalty:g}")
    return ", ".join(parts)


def _length_term(shorter_by: np.ndarray) -> np.ndarray:
    """tanh of how much shorter the model's answers are, in standard deviations, over the last axis."""
    spread = shorter_by.std(axis=-1, ddof=1, keepdims=True) if shorter_by.shape[-1] > 1 else np.zeros(1)
    # tanh by the sigmoid: numpy's own takes three times as long, and most of a bootstrap's time.
    return 2 * _sigmoid(np.divide(2 * shorter_by, spread, out=np.zeros(shorter_by.shape), where=spread > 0)) - 1


def _gamed_rows(gamed: Any, difficulty: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    if gamed is None:
        return np.zeros(0), np.zeros(0), np.zeros(0)
    names = ("baseline_variant", "index", "len_1", "len_2", "pseudo_preference")
    variants, index, long, short, preference = (np.asarray(gamed[name]) for name in names)
    length = np.zeros(len(index))
    for variant in np.unique(variants):
        of_it = variants == variant
        length[of_it] = _length_term(long[of_it].astype(float) - short[of_it].astype(float))
    return length, difficulty[index.astype(int)], preference.astype(float)


def _value(rows: _Rows, weights: np.ndarray) -> np.ndarray:
    """Mean preference in percent had all answers been equally long, ``(draws,)``."""
    return 100 * _at_equal_length(rows, weights).mean(axis=1)


def _at_equal_length(rows: _Rows, weights: np.ndarray) -> np.ndarray:
    return _sigmoid(weights[:, 1:2] * rows.difficulty + weights[:, 2:])


def _fit(rows: _Rows, start: np.ndarray) -> np.ndarray:
    """Coefficients of every draw, ``(draws, 3)``, by Newton's method from ``start``; NaN where it doesn't end."""
    used = rows.used
    fitted = np.full(start.shape, np.nan)
    weights = before = np.where(used, start, 0.0)
    least = np.full(len(weights), np.inf)
    left = np.arange(len(weights))
    for _ in range(MOST_STEPS):
        loss, gradient, curvature = _derivatives(rows, weights)
        worse = loss > least + 1e-9 * np.abs(least)  # then half the last step is tried
        least = np.where(worse, least, loss)
        step = _solved(curvature, gradient, used)
        ahead = np.where(worse[:, None], 0.5 * (before + weights), weights - step)
        before = np.where(worse[:, None], before, weights)
        weights = ahead
        converged = ~worse & (np.abs(step).max(axis=1) < CONVERGED)
        fitted[left[converged]] = weights[converged]
        going = ~converged & ~np.isnan(weights).any(axis=1)
        if not going.all():  # of few prompts many draws have no end: the others do not wait for them
            rows = rows.of(going)
            left = left[going]
            weights = weights[going]
            before = before[going]
            least = least[going]
        if not left.size:
            break
    return fitted


def _as_published(rows: _Rows, penalty: float) -> np.ndarray:
    """Coefficients as AlpacaEval's solver, settings and seed leave them.

    liblinear stops as far as 0.005 points of win rate before the optimum: only the same solver gives the same digits.
    """
    from sklearn.linear_model import LogisticRegression

    size = rows.length.size
    more = rows.gamed_length.size
    own = np.stack([rows.length[0], rows.difficulty[0], np.ones(size)], axis=1)
    gamed = np.stack([rows.gamed_length, rows.gamed_difficulty, np.zeros(more)], axis=1)
    preference = np.concatenate([rows.preference[0], rows.gamed_preference])
    weight = np.concatenate([np.ones(size), np.full(more, GAMED_WEIGHT)])
    # A soft label is both labels, each with its share of the weight.
    model = LogisticRegression(l1_ratio=1, solver="liblinear", C=penalty, fit_intercept=False, random_state=123)
    model.fit(
        np.concatenate([own, gamed] * 2),
        np.repeat([1, 0], size + more),
        np.concatenate([weight * preference, weight * (1 - preference)]),
    )
    return np.asarray(model.coef_, float)


def _solved(curvature: np.ndarray, gradient: np.ndarray, used: np.ndarray) -> np.ndarray:
    """Newton's step of the used coefficients, ``(draws, 3)``; NaN where there is none."""
    matrix = np.where(used[:, None] & used, curvature, np.eye(3))
    with np.errstate(invalid="ignore"):
        flat = ~(np.abs(np.linalg.det(matrix)) > 1e-30)
    step = np.linalg.solve(np.where(flat[:, None, None], np.eye(3), matrix), np.where(used, gradient, 0.0)[..., None])
    return np.where(flat[:, None], np.nan, step[..., 0])


def _derivatives(rows: _Rows, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Summed log-loss of every draw, its gradient ``(draws, 3)`` and second derivatives ``(draws, 3, 3)``."""
    by_length, by_difficulty, model = (weights[:, [i]] for i in range(3))
    length = rows.length
    difficulty = rows.difficulty
    z = by_length * length + by_difficulty * difficulty + model
    loss, residual, slope = _logistic(z, rows.preference)
    steep = slope * length
    steeper = slope * difficulty
    gradient = np.stack([_dot(residual, length), _dot(residual, difficulty), residual.sum(axis=1)], axis=1)
    second = [_dot(steep, length), _dot(steep, difficulty), steep.sum(axis=1)]
    second += [_dot(steeper, difficulty), steeper.sum(axis=1), slope.sum(axis=1)]
    if rows.gamed_length.size:
        length = rows.gamed_length
        difficulty = rows.gamed_difficulty
        more, residual, slope = _logistic(by_length * length + by_difficulty * difficulty, rows.gamed_preference)
        loss = loss + GAMED_WEIGHT * more
        gradient[:, :2] += GAMED_WEIGHT * residual @ np.stack([length, difficulty], axis=1)
        products = np.stack([length * length, length * difficulty, difficulty * difficulty], axis=1)
        for index, product in zip((0, 1, 3), (GAMED_WEIGHT * slope @ products).T, strict=True):
            second[index] = second[index] + product
    curvature = np.stack(second, axis=1)[:, [0, 1, 2, 1, 3, 4, 2, 4, 5]].reshape(-1, 3, 3)
    return loss, gradient, curvature


def _dot(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return np.einsum("dn,dn->d", one, other)


def _sigmoid(z: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        return 1 / (1 + np.exp(-z))


def _logistic(z: np.ndarray, preference: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Summed log-loss, and each row's first and second derivative by ``z``."""
    fitted = _sigmoid(z)
    other = 1 - fitted
    # One logarithm of a product, not a logarithm for each of its factors: they are at least a half.
    likelier = np.multiply.reduceat(np.maximum(fitted, other), np.arange(0, z.shape[1], FACTORS), axis=1)
    loss = np.maximum(z, 0).sum(axis=1) - (z * preference).sum(axis=1) - np.log(likelier).sum(axis=1)
    return loss, fitted - preference, fitted * other
