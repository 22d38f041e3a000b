"""Networks that count their passes."""

import collections

import jax


def watched(logits_fn):
  """A network and the numbers of rows that go forward and backward through it.

  Call `jax.effects_barrier()` before the numbers are read.
  """
  counts = collections.Counter()

  def add(name):
    return lambda rows: counts.update({name: int(rows)})

  @jax.custom_vjp
  def watch(x):
    jax.debug.callback(add("forward"), x.shape[0])
    return x

  def backward(_, cotangent):
    jax.debug.callback(add("backward"), cotangent.shape[0])
    return (cotangent,)

  watch.defvjp(lambda x: (watch(x), None), backward)
  return lambda x: logits_fn(watch(x)), counts
