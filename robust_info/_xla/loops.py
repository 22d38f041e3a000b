"""The only module that decides how loops and batches run on the device.

XLA's CPU backend runs the convolutions of input gradients inside a loop three
to fourteen times slower than outside, unless their weights have the usual order
of axes; GPU and TPU backends do not have this problem. So the steps of loops
are rewritten on CPUs, see `convolutions`, and loops stay loops, which compile
faster than their steps unrolled and take less memory. Every loop over calls of
a network goes through `scan` below.

Measured (2 CPU cores, jax 0.10.1, conv 16-32 network, PGD-20, batch 256): as a
loop 1316 ms, unrolled 387 ms, as a loop of rewritten steps 332 ms, compiled in
1.1, 2.9 and 1.2 s, with temporaries of 9, 38 and 9 MiB; ResNet-20, PGD-5, batch
16: unrolled 125 ms, rewritten 128 ms. Ten pullbacks of the CNN at batch 128:
`vmap` 135 ms, one batch of ten copies 176 ms, unrolled 54 ms.

On an H200 (jax 0.11.2) a rolled loop of nine pullbacks of the CNN at batch 128
takes 1.0 ms, most of it to start its operations: `independent` vectorises them.

Differentiating a loop makes another loop, whose convolutions are not rewritten:
`scan(differentiable=True)` unrolls on CPUs.

The same backend runs the gradient of a small convolution on little more than
one core, but runs independent operations in parallel, for example parts of a
batch, see `side_by_side`. These choices follow the backend of the process: a
program that `jax.export` lowers for another backend is correct, in the form
that is fast here. Measured (as above, medians of 21 in turns, time in
four parts and in two over time whole): input gradients of the 28x28 network
0.73 and 0.81 at batch 128, 0.52 and 0.78 at 512, its parameter gradients 0.83
and 0.89, 0.55 and 0.62, its forward passes 1.10 and 1.13, 1.04 and 1.02; input
gradients of the 8x8 network and of a dense one 1.01, of ResNet-20 (64 images)
0.98, of VGG13 (16 images) 1.07 and 1.01.
"""

import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from robust_info._xla import convolutions

# Above this number of steps compile time outweighs the faster step.
MAX_UNROLL_ON_CPU = 128
# More parts, or smaller parts, gain nothing.
_MAX_PARTS = 4
_MIN_VALUES = 2**14
# Numbers of images in a block of vectorised calls: 16 MiB, and in proportion
# for layers, which may be many times as large.
MAX_VALUES_AT_ONCE = 2**22


def unroll_length(length: int) -> int:
  """Number of steps of a `length`-step loop to unroll on this backend."""
  if jax.default_backend() == "cpu" and length <= MAX_UNROLL_ON_CPU:
    return max(length, 1)
  return 1


def scan(
  step: Callable[[Any, Any], tuple[Any, Any]],
  init: Any,
  xs: Any,
  *,
  length: int,
  differentiable: bool = False,
) -> tuple[Any, Any]:
  """`jax.lax.scan`, in the form that is fast on this backend.

  `differentiable=True` is for loops inside a loss: reverse-mode differentiation
  of the whole loop is fast, too. A single step is called directly, because
  `lax.scan` makes a loop even of one step.
  """
  if length == 1:
    carry, out = step(init, jax.tree.map(lambda leaf: leaf[0], xs))
    return carry, jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], out)
  unroll = unroll_length(length) if differentiable else 1
  if unroll == 1:
    step = _rewritten(step)

  def steady(carry, x):
    carry, out = step(carry, x)
    return _varying(carry), out

  return jax.lax.scan(steady, _varying(init), xs, length=length, unroll=unroll)


def independent(
  call: Callable[[Any], Any],
  xs: Any,
  *,
  length: int,
  values: int | None = None,
  differentiable: bool = False,
) -> Any:
  """`call` on each entry of xs, stacked: calls that need nothing of each other.

  On CPUs they are the steps of `scan`. Elsewhere, where starting a small
  operation takes longer than running it, blocks of them are vectorised.

  Args:
    call: function to call.
    xs: pytree, its leaves [length, ...].
    length: number of calls.
    values: size of the batch of images of a call, by default of its result. A
      block has at most `MAX_VALUES_AT_ONCE` of them, which limits its memory.
    differentiable: as in `scan`.
  """
  if jax.default_backend() != "cpu" and length > 1:
    if values is None:
      first = jax.eval_shape(lambda: jax.tree.map(lambda leaf: leaf[0], xs))
      values = sum(r.size for r in jax.tree.leaves(jax.eval_shape(call, first)))
    block = MAX_VALUES_AT_ONCE // max(values, 1)
    if block >= length:
      return jax.vmap(call)(xs)
    if block > 1:
      return jax.lax.map(call, xs, batch_size=block)

  def step(_, x):
    return None, call(x)

  return scan(step, None, xs, length=length, differentiable=differentiable)[1]


def _varying(carry: Any) -> Any:
  """Marks the carry as varying by device, inside `jax.shard_map`.

  There the type of a value says whether it differs by device, and a loop must
  not change the types of its carry. A start of zeros is the same on all
  devices, but its later values are not.
  """
  axes = tuple(getattr(jax.sharding.get_abstract_mesh(), "manual_axes", ()))
  if not axes:
    return carry

  def mark(leaf):
    kind = jax.typeof(leaf)
    kind = getattr(kind, "manual_axis_type", kind)
    known = kind.varying if hasattr(kind, "varying") else kind.vma
    new = tuple(axis for axis in axes if axis not in known)
    return jax.lax.pcast(leaf, new, to="varying") if new else leaf

  return jax.tree.map(mark, carry)


def cond(
  predicate: jax.Array,
  if_true: Callable[..., Any],
  if_false: Callable[..., Any],
  *operands: Any,
) -> Any:
  """`jax.lax.cond`, rewritten: branches are as slow as loops on a CPU."""
  return jax.lax.cond(
    predicate, _rewritten(if_true), _rewritten(if_false), *operands
  )


def _rewritten(step: Callable[..., Any]) -> Callable[..., Any]:
  is_cpu = jax.default_backend() == "cpu"
  return convolutions.canonical(step) if is_cpu else step


def in_batches(
  fn: Callable[[jax.Array, jax.Array], Any],
  x: jax.Array,
  key: jax.Array,
  *,
  batch_size: int | None,
) -> Any:
  """Applies `fn` over the leading axis of x, up to `batch_size` rows at a time.

  Args:
    fn: function of some rows, which it treats independently, and a key; every
      leaf of its result has them on its leading axis.
    x: [N, ...].
    key: key of the only batch; of several each has its own, because errors from
      the same draws would not average out.
    batch_size: rows per call; `None` for all of them together.

  Returns:
    The result of `fn(x, key)`, up to what is random. The last batch is filled
    up with copies of the last row, which are dropped. Batches run one after
    another, in a loop, to save memory.
  """
  num_rows = x.shape[0]
  if batch_size is None or batch_size >= num_rows:
    return fn(x, key)
  num_batches = -(-num_rows // batch_size)
  index = jnp.minimum(jnp.arange(num_batches * batch_size), num_rows - 1)

  def step(batch):
    rows, number = batch
    return fn(x[rows], jax.random.fold_in(key, number))

  stacked = jax.lax.map(
    _rewritten(step),
    (index.reshape(num_batches, batch_size), jnp.arange(num_batches)),
  )
  return jax.tree.map(
    lambda leaf: leaf.reshape((-1, *leaf.shape[2:]))[:num_rows], stacked
  )


def side_by_side(
  fn: Callable[[jax.Array], jax.Array],
) -> Callable[[jax.Array], jax.Array]:
  """Runs `fn` on parts of its batch, if its gradient can then use all cores.

  For functions that will be differentiated: forward passes gain nothing.

  Args:
    fn: [N, ...] -> [N, ...], treats rows independently.

  Returns:
    A function with the same values, up to rounding. On one CPU device the parts
    of a large batch are independent operations of the program. The function
    calls `fn` unchanged on other backends, for small batches, if nothing is
    convolved, and if `fn` holds something per row, such as a mask [N, C], which
    does not fit a part of the batch. Tracing traces `fn` once more to find out.
  """

  def call(x: jax.Array) -> jax.Array:
    parts = min(_MAX_PARTS, x.shape[0], x.size // _MIN_VALUES)
    if (
      parts < 2
      or jax.default_backend() != "cpu"
      # Several CPU devices already share the cores.
      or jax.device_count() > 1
      or not _convolves_rows(fn, x)
    ):
      return fn(x)
    bounds = [part * x.shape[0] // parts for part in range(parts + 1)]
    return jnp.concatenate([fn(x[a:b]) for a, b in itertools.pairwise(bounds)])

  return call


def _convolves_rows(fn: Callable[[jax.Array], jax.Array], x: jax.Array) -> bool:
  """Whether `fn` convolves, and accepts another number of rows than x has.

  Tries one row more instead of a part of x, because a part may have so few rows
  that they broadcast against arrays inside `fn`.
  """
  num_rows = x.shape[0] + 1
  rows = jax.ShapeDtypeStruct((num_rows, *x.shape[1:]), x.dtype)
  try:
    program = jax.make_jaxpr(fn)(rows)
  except Exception:
    # Any error: if it is not about the number of rows, `fn(x)` raises it again.
    return False
  fits = all(aval.shape[:1] == (num_rows,) for aval in program.out_avals)
  return fits and "conv_general_dilated" in str(program)
