"""The one place that chooses how loops reach the device.

XLA's CPU backend runs convolutions inside a rolled loop about three to four
times slower than the same steps unrolled, and a partly unrolled loop is as
slow as a rolled one; GPU and TPU backends lose nothing by rolling, and compile
faster. Every loop over network evaluations goes through `scan` below.

Measured (2 CPU cores, jax 0.10.2, conv 16-32 network, batch 128, 20 signed
gradient steps): rolled 776 ms, `unroll=10` 748 ms, fully unrolled 238 ms.
Ten pullbacks of the same network: `vmap` 143 ms, one batch of ten copies
196 ms, unrolled 62 ms.
"""

from collections.abc import Callable
from typing import Any

import jax

# Beyond this many steps compile time outweighs the faster step.
MAX_UNROLL_ON_CPU = 128


def unroll_length(length: int) -> int:
  """How many steps of a `length`-step loop to unroll on this backend."""
  if jax.default_backend() == "cpu" and length <= MAX_UNROLL_ON_CPU:
    return max(length, 1)
  return 1


def scan(
  step: Callable[[Any, Any], tuple[Any, Any]],
  init: Any,
  xs: Any,
  *,
  length: int,
) -> tuple[Any, Any]:
  """`jax.lax.scan`, unrolled where rolled loops are slow."""
  return jax.lax.scan(
    step, init, xs, length=length, unroll=unroll_length(length)
  )
