"""An LSTM that forecasts the next hours of all metrics from the last week, in JAX; what came against it is the evidence.

A metric enters without its usual hour of the week, in units of its spread, beside the calendar. The last hidden state is
mapped to the next `lead` buckets at once, so a forecast cannot follow a fault that has begun meanwhile. JAX is imported here
alone, and only to fit: a fitted model is arrays, and is served as the ONNX operator.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from typing import Any

import numpy as np

from detectors.sequence_filter import RHYTHMS, uses_root
from shared.errors import InvalidRequest
from training.calibration import Calibration
from training.series import FloatArray, IntArray, NotEnoughHistory

INSTALL = "An LSTM is trained with JAX and optax: pip install -r requirements-deep.txt"
WINDOWS = {"hourly": (168, 12), "daily": (28, 3)}  # buckets read, buckets forecast
MOST_SPREADS = 10.0  # what one bucket can say at most
SHRINK = 2.0  # visits that an hour of the week has to outweigh, against the same hour of any day
FLOOR = 1e-3  # smallest spread, as a share of the level
RANGE = 4.0  # scales around a forecast that a normal value lies in
# The hidden state is rounded to this, so that a file answers alike whatever the CPU does in the last digits of float32.
GRAIN = 4096.0

type Forecast = Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class Effort:
    """How long and how large: 1,000 windows of a week, 12 times over, are learnt in five to ten seconds on one core."""

    hidden: int = 32
    epochs: int = 12
    windows: int = 1000
    batch: int = 64
    rate: float = 0.005


@dataclass(frozen=True, slots=True)
class Lstm:
    """A fitted model of m metrics. Weights are float32 in the operator's layout, gates in the order i, o, f, c.

    `profile` (cycle, m) and `spread` (m,) in the unit the metric is measured in, of which `root` (m,) says whether it is the
    square root; `scale` (lead, m) of a forecast's error, in spreads.
    """

    granularity: str
    root: Any
    profile: FloatArray
    spread: FloatArray
    weights: dict[str, Any]
    scale: FloatArray
    calibration: Calibration | None = None

    @property
    def window(self) -> int:
        return sum(WINDOWS[self.granularity])

    def features(self, xp: Any, time: Any, window: Any) -> tuple[Any, Any, Any]:
        """time (n,) bucket of the last row, window (n, window, m) -> z (n, window, m), profile of the last row (n, m),
        and what the network reads (n, read, m + calendar), all float64; z is NaN where a value is unknown."""
        rhythm, (read, _) = RHYTHMS[self.granularity], WINDOWS[self.granularity]
        slots = (time[:, None] + xp.asarray(np.arange(1 - self.window, 1) + rhythm.slot(0))) % rhythm.cycle
        level = xp.where(xp.asarray(self.root), xp.sqrt(xp.maximum(window, 0.0)), window)
        profile = xp.take(xp.asarray(self.profile), xp.reshape(slots, (-1,)), axis=0)
        profile = xp.reshape(profile, (-1, self.window, self.profile.shape[1]))
        z = (level - profile) / xp.asarray(self.spread)
        calendar = xp.take(xp.asarray(_calendar(self.granularity)), xp.reshape(slots[:, :read], (-1,)), axis=0)
        calendar = xp.reshape(calendar, (-1, read, calendar.shape[1]))
        limited = xp.clip(xp.where(xp.isnan(z), 0.0, z), -MOST_SPREADS, MOST_SPREADS)
        return z, profile[:, -1, :], xp.concat([limited[:, :read, :], calendar], axis=2)

    def judge(self, xp: Any, time: Any, window: Any, hidden: Forecast) -> dict[str, Any]:
        """-> raw (n, m) mean error in scales over the forecast buckets, expected, lower, upper (n, m) of the last one.

        `hidden` maps what the network reads to its last state (n, hidden).
        """
        _, lead = WINDOWS[self.granularity]
        m = self.profile.shape[1]
        z, profile, read = self.features(xp, time, window)
        state = xp.round(hidden(read) * GRAIN) / GRAIN
        head, bias = (xp.asarray(self.weights[name].astype(np.float64)) for name in ("head", "bias"))
        forecast = xp.reshape(xp.matmul(state, head) + bias, (-1, lead, m))
        error = xp.minimum(xp.abs(z[:, -lead:, :] - forecast) / xp.asarray(self.scale), MOST_SPREADS)
        known = ~xp.isnan(error)
        counted = xp.sum(xp.astype(known, xp.float64), axis=1)
        raw = xp.sum(xp.where(known, error, 0.0), axis=1) / xp.where(counted > 0.0, counted, np.nan)
        middle = profile + forecast[:, -1, :] * xp.asarray(self.spread)
        reach = xp.asarray(RANGE * self.scale[-1] * self.spread)
        bounds = {"expected": middle, "lower": middle - reach, "upper": middle + reach}
        own = {name: xp.where(xp.asarray(self.root), xp.maximum(part, 0.0) ** 2, part) for name, part in bounds.items()}
        return {"raw": raw, **own}


def windows_of(values: FloatArray, start: int, ends: IntArray, length: int) -> tuple[IntArray, FloatArray]:
    """(n, m) series from bucket `start`, places (k,) of last rows -> their buckets (k,) and windows (k, length, m)."""
    return start + ends, values[ends[:, None] + np.arange(1 - length, 1)]


def fit(values: FloatArray, start: int, granularity: str, effort: Effort | None = None, seed: int = 0) -> Lstm:
    """(n, m) buckets from `start` on, NaN where unknown. The same data give the same model on the same device.

    `scale` is that of the errors on the training data; held-out ones know better (`with_errors`). Raises NotEnoughHistory.
    """
    jax, _ = libraries()
    effort = effort or Effort()
    read, lead = WINDOWS[granularity]
    length, n, m = read + lead, len(values), values.shape[1]
    ends = np.arange(length - 1, n)
    ends = ends[np.isfinite(values[ends]).all(axis=1)]
    if len(ends) < length:
        raise NotEnoughHistory(2 * length, len(ends) + length - 1)
    ends = ends[np.unique(np.linspace(0, len(ends) - 1, effort.windows).astype(int))]
    rng = np.random.default_rng(seed)
    model = _measured(values, start, granularity, m, effort.hidden, lead, rng)
    time, windows = windows_of(values, start, ends, length)
    z, _, inputs = model.features(np, time, windows)
    targets = np.clip(np.nan_to_num(z[:, -lead:]), -MOST_SPREADS, MOST_SPREADS).astype(np.float32).reshape(len(ends), -1)
    counts = np.isfinite(z[:, -lead:]).astype(np.float32).reshape(len(ends), -1)
    inputs = inputs.astype(np.float32)

    batch = min(effort.batch, len(ends))
    steps = max(effort.epochs * (len(ends) // batch), 1)
    optimiser, update = _training(effort.rate, steps)
    weights = {name: jax.numpy.asarray(part) for name, part in model.weights.items()}
    memory = optimiser.init(weights)
    for _ in range(effort.epochs):
        order = rng.permutation(len(ends))
        for i in range(0, len(order) - batch + 1, batch):
            rows = order[i : i + batch]
            weights, memory = update(weights, memory, inputs[rows], targets[rows], counts[rows])
    model = replace(model, weights={name: np.asarray(part) for name, part in weights.items()})
    forecast = hidden_by_jax(model)(inputs) @ model.weights["head"] + model.weights["bias"]
    return with_errors(model, np.where(counts > 0, targets - forecast, np.nan).reshape(len(ends), lead, m))


def with_errors(model: Lstm, errors: FloatArray) -> Lstm:
    """The model that knows how far off it is: (k, lead, m) errors in spreads, NaN where unknown."""
    typical = np.nanmedian(np.abs(errors), axis=0) / 0.6745
    # The leads of a metric have much in common, and a metric that never varied may still do so.
    return replace(model, scale=np.maximum(0.5 * typical + 0.5 * typical.mean(axis=0), 0.05).astype(np.float64))


def errors_of(model: Lstm, values: FloatArray, start: int, ends: IntArray) -> FloatArray:
    """(k, lead, m) errors in spreads of the forecasts that end at these places."""
    _, lead = WINDOWS[model.granularity]
    time, windows = windows_of(values, start, ends, model.window)
    z, _, inputs = model.features(np, time, windows)
    forecast = hidden_by_jax(model)(inputs) @ model.weights["head"] + model.weights["bias"]
    error: FloatArray = z[:, -lead:] - forecast.reshape(len(ends), lead, -1)
    return error


def hidden_by_jax(model: Lstm) -> Forecast:
    """The last hidden state as JAX computes it: what the ONNX operator is compared with."""
    weights = {name: model.weights[name] for name in ("W", "R", "B")}
    return lambda inputs: np.asarray(_forward()(weights, np.asarray(inputs, np.float32)), np.float64)


def libraries() -> tuple[Any, Any]:
    """jax and optax. Raises InvalidRequest, saying what to install, where they are not."""
    try:
        import jax
        import optax
    except ImportError as error:
        raise InvalidRequest(f"{INSTALL} ({error.name} is missing).", "algorithm") from None
    return jax, optax


def device() -> str:
    """What JAX computes on: `cpu`, or a GPU's name."""
    first = libraries()[0].devices()[0]
    return str(first.platform if first.platform == "cpu" else first.device_kind)


@cache
def _forward() -> Any:
    """Compiled once for each shape."""
    jax, _ = libraries()
    return jax.jit(lambda weights, x: _hidden(jax, weights, x))


@lru_cache(maxsize=8)
def _training(rate: float, steps: int) -> tuple[Any, Any]:
    """The optimiser, and one step of it: (weights, memory, x, y, known) -> (weights, memory)."""
    jax, optax = libraries()
    jnp = jax.numpy
    optimiser = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(optax.cosine_decay_schedule(rate, steps)))

    def loss(weights: Any, x: Any, y: Any, known: Any) -> Any:
        forecast = _hidden(jax, weights, x) @ weights["head"] + weights["bias"]
        return jnp.sum(known * optax.huber_loss(forecast, y)) / jnp.maximum(jnp.sum(known), 1.0)

    def update(weights: Any, memory: Any, x: Any, y: Any, known: Any) -> Any:
        slope = jax.grad(loss)(weights, x, y, known)
        change, memory = optimiser.update(slope, memory)
        return optax.apply_updates(weights, change), memory

    return optimiser, jax.jit(update)


def _hidden(jax: Any, weights: Any, x: Any) -> Any:
    """(n, read, f) -> (n, hidden): the operator's equations (ONNX LSTM; Hochreiter and Schmidhuber 1997,
    doi:10.1162/neco.1997.9.8.1735)."""
    jnp = jax.numpy

    def cell(carry: Any, row: Any) -> Any:
        state, memory = carry
        gates = row @ weights["W"].T + state @ weights["R"].T + weights["B"]
        enter, leave, keep, new = jnp.split(gates, 4, axis=1)
        memory = jax.nn.sigmoid(keep) * memory + jax.nn.sigmoid(enter) * jnp.tanh(new)
        return (jax.nn.sigmoid(leave) * jnp.tanh(memory), memory), None

    empty = jnp.zeros((x.shape[0], weights["R"].shape[1]), jnp.float32)
    (state, _), _ = jax.lax.scan(cell, (empty, empty), jnp.swapaxes(x, 0, 1))
    return state


def _measured(values: FloatArray, start: int, granularity: str, m: int, hidden: int, lead: int,
              rng: np.random.Generator) -> Lstm:
    """Profile and spread of the metrics, and weights to begin with."""
    rhythm = RHYTHMS[granularity]
    slots = np.array([rhythm.slot(start + i) for i in range(len(values))])
    root = np.array([uses_root(column, slots, rhythm.cycle) for column in values.T], bool)
    level = np.where(root, np.sqrt(np.maximum(values, 0.0)), values)
    profile = np.empty((rhythm.cycle, m))
    for slot in range(rhythm.cycle):
        alike, own = level[slots % rhythm.phases == slot % rhythm.phases], level[slots == slot]
        wide = np.nanmedian(alike, axis=0)
        count = np.isfinite(own).sum(axis=0)
        near = np.nanmedian(np.where(count > 0, own, wide), axis=0) if len(own) else wide
        profile[slot] = (count * near + SHRINK * wide) / (count + SHRINK)
    middle = np.nanmedian(level, axis=0)
    spread = 1.4826 * np.nanmedian(np.abs(level - profile[slots]), axis=0)
    spread = np.maximum(spread, FLOOR * np.abs(middle) + 1e-9)
    inputs = m + _calendar(granularity).shape[1]
    bias = np.zeros(4 * hidden)
    bias[2 * hidden : 3 * hidden] = 1.0  # at first everything is remembered
    drawn = {"W": rng.normal(0, inputs**-0.5, (4 * hidden, inputs)), "R": rng.normal(0, hidden**-0.5, (4 * hidden, hidden)),
             "B": bias, "head": rng.normal(0, 0.1 * hidden**-0.5, (hidden, lead * m)), "bias": np.zeros(lead * m)}
    weights = {name: part.astype(np.float32) for name, part in drawn.items()}
    return Lstm(granularity, root, profile, spread, weights, np.ones((lead, m)))


def _calendar(granularity: str) -> FloatArray:
    """(cycle, c) where in the day and the week a bucket lies, as waves."""
    rhythm = RHYTHMS[granularity]
    angle = 2 * np.pi * np.arange(rhythm.cycle) / rhythm.cycle
    turns = (1, rhythm.days, 2 * rhythm.days) if rhythm.days > 1 else (1, 2)
    return np.stack([wave(turn * angle) for turn in turns for wave in (np.sin, np.cos)], axis=1)
