"""The compiled programs of an ensemble, and their cache.

Shape letters: N examples, M any number of rows, C classes.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from robust_info.attacks import (
  _apgd,
  _fab,
  _pgd,
  _square,
  ascent,
  methods,
)
from robust_info.attacks.autoattack import pool

_WINDOW_SHARE = 0.8


class Plan(NamedTuple):
  """Settings on which the compiled programs depend; hashable."""

  norm: str
  num_steps: int
  num_queries: int
  low: float
  high: float
  eot_samples: int | None


def _by_gradient(method: Callable[..., methods.Method], **options: Any):
  """Adapts a gradient attack to `METHODS`."""
  return lambda plan: method(num_steps=plan.num_steps, **options, **_box(plan))


def _square_of(plan: Plan) -> methods.Method:
  return _square.method(
    num_queries=plan.num_queries,
    share=_WINDOW_SHARE,
    # As in the published code, so that numbers are comparable.
    reach_edges=False,
    **_box(plan),
  )


def _box(plan: Plan) -> dict[str, Any]:
  return {"norm": plan.norm, "low": plan.low, "high": plan.high}


# Every attack of an ensemble: name -> its method under a plan. The place of an
# attack decides its random key, so new ones go to the end.
METHODS: dict[str, Callable[[Plan], methods.Method]] = {
  "apgd-ce": _by_gradient(_apgd.label_method, loss="cross_entropy"),
  "apgd-dlr": _by_gradient(_apgd.label_method, loss="dlr"),
  "apgd-t": _by_gradient(_apgd.target_method),
  "fab": _by_gradient(_fab.method, targeted=False),
  "fab-t": _by_gradient(_fab.method, targeted=True),
  "square": _square_of,
  "pgd": _by_gradient(_pgd.method),
}


def build(name: str, plan: Plan) -> pool.Programs:
  """Builds the start and the step of the named attack."""
  return pool.compile_programs(METHODS[name](plan), plan.eot_samples)


def build_forward(eot_samples: int | None) -> Callable[..., jax.Array]:
  """Builds `(logits_fn, x, key, begin) -> logits [N, C]`, mean over the draws.

  The draws depend on the key and on `begin`, the index of the first row.
  """

  @jax.jit
  def forward(logits_fn, x, key, begin):
    evaluate = ascent.evaluator(logits_fn, eot_samples, backward=False)
    return jnp.mean(evaluate(x, jax.random.fold_in(key, begin)), axis=0)

  return forward


# Programs for a `Partial` are kept as long as the process lives: the caller
# promises that its function is pure, and its leaves are arguments.
kept = functools.cache(build)
kept_forward = functools.cache(build_forward)


def forward_in_batches(program, logits_fn, rows, key, batch_size) -> np.ndarray:
  """Computes logits [M, C] of any number of rows, in batches of one shape."""
  parts = []
  for begin in range(0, len(rows), batch_size):
    part = rows[begin : begin + batch_size]
    padding = [(0, batch_size - len(part))] + [(0, 0)] * (rows.ndim - 1)
    padded = np.pad(part, padding, mode="edge")
    logits = program(logits_fn, padded, key, begin)
    parts.append(np.asarray(logits)[: len(part)])
  return np.concatenate(parts)
