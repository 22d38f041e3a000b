"""Eager calls run one program for each architecture, and see what changes."""

import collections
import functools

import jax
import jax.numpy as jnp
import numpy as np
import public_calls
import pytest

import robust_info as ri
from robust_info import _validate
from robust_info._xla import compiled

KEY = jax.random.key(0)
TRACES = collections.Counter()


def apply(weights, x):
  """Counts how often Python runs it."""
  TRACES["network"] += 1
  return jnp.tanh(x.reshape(x.shape[0], -1) @ weights["first"]) @ weights["second"]


def network(scale=1.0):
  weights = {k: scale * public_calls.arrays()[k] for k in ("first", "second")}
  return jax.tree_util.Partial(apply, weights)


NAMES = [
  name
  for name in public_calls.calls(*(public_calls.arrays()[k] for k in ("x", "other")))
]

@pytest.mark.parametrize("name", NAMES)
def test_a_function_compiles_once(name, monkeypatch):
  import time
  x, other = (jnp.asarray(public_calls.arrays()[k]) for k in ("x", "other"))
  def call(scale, x, other):
    monkeypatch.setattr(public_calls, "network", network(scale))
    fn = public_calls.calls(x, other)[name]
    TRACES.clear()
    t=time.process_time()
    jax.block_until_ready(fn())
    print(name, time.process_time()-t, TRACES)
    return TRACES["network"]
  call(1.0, x, other)
  assert call(0.5, other, x) == 0
