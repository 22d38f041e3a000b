"""Identifiers of programs: equal for equal computations only."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import io_callback

from robust_info.evaluation import programs

X = jax.ShapeDtypeStruct((2, 3), jnp.float32)
LARGE = np.zeros(300_000, np.float32)


def moved_in_the_middle():
  other = LARGE.copy()
  other[150_000] = 1e-3
  return other


def test_equal_programs_are_equal_whatever_holds_their_arrays():
  found = {
    programs.digest(fn, held, X)
    for fn, held in (
      (lambda w, x: w["a"] * x, {"a": jnp.ones(())}),
      (lambda w, x: w[0] * x, [np.zeros((), np.float32)]),
      (lambda w, x: w.args[0] * x, jax.tree_util.Partial(print, jnp.ones(()))),
    )
  }
  assert len(found) == 1
  assert None not in found


def test_programs_are_told_apart():
  def closed(array):
    return lambda x: x + jnp.sum(jnp.asarray(array) ** 2)

  def looped(array):  # The array is part of the program of the loop.
    return lambda x: jax.lax.map(lambda r: r + jnp.sum(array * r[0]), x)

  found = [
    programs.digest(fn, *arguments)
    for fn, *arguments in (
      (closed(LARGE), X),
      (closed(moved_in_the_middle()), X),
      (looped(LARGE), X),
      (looped(moved_in_the_middle()), X),
      (lambda a, b: a, X, X),
      (lambda a, b: b, X, X),
      (lambda x: 2 * x, X),
      (lambda x: 3 * x, X),
    )
  ]
  assert len({*found}) == len(found)
  assert None not in found


@jax.custom_batching.custom_vmap
def other_in_batches(x):
  return x


other_in_batches.def_vmap(lambda size, batched, x: (2 * x, batched[0]))


@pytest.mark.parametrize(
  "fn",
  [
    lambda x: jax.pure_callback(np.sin, x, x),
    lambda x: io_callback(np.sin, x, x),
    jax.jit(lambda x: jax.pure_callback(np.sin, x, x)),
    lambda x: jax.lax.cond(
      x[0, 0] > 0, lambda: jax.pure_callback(np.sin, x, x), lambda: x
    ),
    lambda x: jax.lax.map(lambda r: jax.pure_callback(np.sin, r, r), x),
    lambda x: jax.ffi.ffi_call("of_another_library", x)(x),
    other_in_batches,
  ],
)
def test_programs_that_hide_something_have_no_identifier(fn):
  assert programs.digest(fn, X) is None
