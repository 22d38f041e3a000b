"""Random keys for networks that split keys, but draw no numbers.

Networks often pass keys on to layers that ignore them in evaluation mode. These
keys can be split and folded as others are. Numbers that an output depends on
cannot be drawn from them: that raises when the program is compiled.
"""

import contextlib
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.extend.random
import jax.numpy as jnp

from robust_info.adapters import base


def call(function: Callable[[jax.Array | None], Any]) -> Any:
  """The outputs of a function of a key, which must not depend on the key.

  The key is `None`, as some networks need in evaluation mode, or a key where
  that raises.

  Raises:
    ValueError: the outputs depend on random numbers.
    Exception: what the function raises with a key.
  """
  # Each library has an error of its own for a key that is missing.
  with contextlib.suppress(Exception):
    return function(None)
  return function(keys())


def keys(shape: tuple[int, ...] = ()) -> jax.Array:
  """Keys of that shape."""
  one = jax.random.key(0, impl=_implementation())
  return jnp.broadcast_to(one, shape) if shape else one


@functools.cache
def _implementation() -> Any:
  """One for all, by which JAX knows that programs are equal."""
  return jax.extend.random.define_prng_impl(
    key_shape=(1,),
    seed=lambda seed: jnp.zeros(1, jnp.uint32),
    split=lambda key, shape: jnp.zeros((*shape, 1), jnp.uint32),
    fold_in=lambda key, data: key,
    random_bits=lambda key, width, shape: base.refuse_randomness(),
    name="robust_info_undrawn",
    tag="undrawn",
  )
