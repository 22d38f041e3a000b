"""Runs an iterative attack over any number of examples in one fixed batch.

The batch is a pool of slots. A row whose example is broken or out of steps
leaves at the next look, and the next job takes its slot. So every device step
is full, shapes never change, and one program is compiled for the start and one
for the step. On a randomised network a row takes all its steps: one wrong draw
says little about the next, and later points lie deeper. The tries of an example
run one after another, and randomness follows the example and the try, so
neither batch size nor order changes any outcome. Shape letters: N examples, B
slots, T tries of an example.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from robust_info._xla import loops
from robust_info.attacks import ascent, inputs, methods, results

# Steps per dispatch. On a CPU a dispatch costs far less than a step, and with
# single steps a broken example leaves its slot at once.
_STEPS_PER_CALL = {"cpu": 1}
_STEPS_PER_CALL_ELSEWHERE = 10


class Finished(NamedTuple):
  """Examples that have left the pool.

  Attributes:
    index: [M] indices of the examples.
    found: [M] bool, whether a misclassified point was found.
    x_found: [M, ...] misclassified points; meaningful where `found`.
    no_gradient: [M] bool, some try started with a zero gradient.
    nonfinite_gradient: [M] bool, some try had a NaN or infinite gradient.
  """

  index: np.ndarray
  found: np.ndarray
  x_found: np.ndarray
  no_gradient: np.ndarray
  nonfinite_gradient: np.ndarray


class Look(NamedTuple):
  """Result of one look at the pool.

  Attributes:
    finished: examples that left.
    under_way: work done on those that stay, in examples; below B.
  """

  finished: Finished
  under_way: float


@dataclasses.dataclass(frozen=True)
class Programs:
  """The compiled programs of a method, which take `logits_fn` as an argument.

  Attributes:
    start: map from jobs to their first carry; not compiled on its own.
    refill: program that starts jobs in given slots; compiled once, for a vacant
      pool too.
    step: program that takes `steps_per_call` steps; compiled once.
    steps_per_call: number of steps per call of `step`.
    ends_early: whether a row ends at its first success.
    method: method that the programs run.
  """

  start: Callable[..., Any]
  refill: Callable[..., Any]
  step: Callable[..., Any]
  steps_per_call: int
  ends_early: bool
  method: methods.Method


def compile_programs(
  method: methods.Method, eot_samples: int | None
) -> Programs:
  """Builds the jitted start and step of a method (nothing compiles yet)."""
  steps_per_call = _STEPS_PER_CALL.get(
    jax.default_backend(), _STEPS_PER_CALL_ELSEWHERE
  )
  ends_early = eot_samples is None

  def start(x, y, target, number, example, key, epsilon):
    start_key = inputs.mappable(jax.random.split(key)[0])
    keys = jax.vmap(
      lambda e, n: jax.random.fold_in(jax.random.fold_in(start_key, e), n)
    )(example, number)
    return method.start(methods.Try(x, y, target, number, keys), epsilon)

  @functools.partial(jax.jit, donate_argnums=0)
  def refill(state, replaced, *jobs):
    return results.select(replaced, start(*jobs), state)

  @functools.partial(jax.jit, donate_argnums=1)
  def step(logits_fn, state, epsilon, key, call):
    evaluate = ascent.evaluator(
      logits_fn, eot_samples, backward=method.backward
    )
    _, draw_key = jax.random.split(key)

    def one(state, number):
      step_key = None
      if eot_samples is not None:
        step_key = jax.random.fold_in(draw_key, number)
      after = method.step(evaluate, state, epsilon, step_key)
      if ends_early:
        # Freeze finished rows: otherwise the returned point would depend on
        # when the host looks next, and so on the other rows.
        after = results.select(state.found, state, after)
      return after, None

    numbers = call * steps_per_call + jnp.arange(steps_per_call)
    state, _ = loops.scan(one, state, numbers, length=steps_per_call)
    return state

  return Programs(start, refill, step, steps_per_call, ends_early, method)


def _vacant(leaf: jax.ShapeDtypeStruct, key: jax.Array) -> Any:
  """Content of a slot before its first job: zeros, or any key."""
  if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
    return jnp.broadcast_to(key, leaf.shape)
  return np.zeros(leaf.shape, leaf.dtype)


def run(
  programs: Programs,
  logits_fn: jax.tree_util.Partial,
  x: np.ndarray,
  y: np.ndarray,
  ids: np.ndarray,
  todo: np.ndarray,
  targets: np.ndarray | None,
  key: jax.Array,
  *,
  epsilon: np.ndarray,
  tries: int,
  batch_size: int,
  look_every: int,
) -> Iterator[Look]:
  """Attacks the examples `todo`, up to `tries` times each.

  Args:
    programs: programs of the method.
    logits_fn: network; a Partial, whose leaves are arguments of the step.
    x: [N, ...] inputs.
    y: [N] labels.
    ids: [N] ints that randomness follows.
    todo: indices of the examples to attack.
    targets: [N, T] classes of the tries, or `None` for an untargeted method.
    key: PRNG key, consumed.
    epsilon: [N] radii.
    tries: largest number of tries per example, T.
    batch_size: number of slots, B.
    look_every: number of steps between two looks at the pool; a finished row
      wastes at most this many steps.

  Yields:
    One `Look` at a time, with the examples finished since the last one,
    possibly none; in no particular order, each exactly once.
  """
  method = programs.method
  queue = iter(todo)
  slot_example = np.full(batch_size, -1)
  slot_try = np.zeros(batch_size, np.int32)
  slot_steps = np.zeros(batch_size, np.int64)
  slot_dry = np.zeros(batch_size, bool)
  slot_lost = np.zeros(batch_size, bool)
  # Idle slots hold any example; their results are ignored.
  slot_x = np.broadcast_to(x[:1], (batch_size, *x.shape[1:])).copy()
  slot_y = np.broadcast_to(y[:1], (batch_size,)).copy()
  slot_epsilon = np.full(batch_size, epsilon[0], x.dtype)
  slot_id = np.zeros(batch_size, np.int32)
  slot_target = np.zeros(batch_size, np.int32)
  calls = 0

  def load(slots):
    """Puts a job into each slot: the example's next try or a new example."""
    changed = np.zeros(batch_size, bool)
    for slot in slots:
      example = slot_example[slot]
      if example >= 0:
        slot_try[slot] += 1
      else:
        example = next(queue, -1)
        if example < 0:
          continue
        slot_example[slot], slot_try[slot] = example, 0
        slot_dry[slot] = slot_lost[slot] = False
        slot_epsilon[slot] = epsilon[example]
        slot_x[slot], slot_y[slot] = x[example], y[example]
        slot_id[slot] = ids[example]
      if targets is not None:
        slot_target[slot] = targets[example, slot_try[slot]]
      slot_steps[slot] = 0
      changed[slot] = True
    return changed

  load(range(batch_size))
  jobs = (slot_x, slot_y, slot_target, slot_try, slot_id, key, slot_epsilon)
  state = jax.tree.map(
    lambda leaf: _vacant(leaf, key), jax.eval_shape(programs.start, *jobs)
  )
  changed = np.ones(batch_size, bool)
  while (slot_example >= 0).any():
    if changed.any():
      state = programs.refill(state, changed, *jobs)
    busy = slot_example >= 0
    # Look at the latest when the first row has taken all its steps.
    left = int(np.min(method.num_steps - slot_steps[busy]))
    count = -(-min(left, look_every) // programs.steps_per_call)
    for _ in range(count):
      state = programs.step(logits_fn, state, slot_epsilon, key, calls)
      calls += 1
    slot_steps += count * programs.steps_per_call
    found, dry, lost = jax.device_get(
      (state.found, state.zero_gradient, state.nonfinite_gradient)
    )
    slot_dry |= dry & busy
    slot_lost |= lost & busy
    found = found & busy
    ended = busy & (slot_steps >= method.num_steps)
    if programs.ends_early:
      ended |= found
    done = ended & (found | (slot_try + 1 >= tries))
    slots = np.flatnonzero(done)
    example = slot_example[slots]
    points = x[example]
    if found.any():
      points = np.asarray(state.x_found)[slots]
    steps = slot_try * method.num_steps + slot_steps
    worth = steps[busy & ~done].sum() / (tries * method.num_steps)
    finished = Finished(
      example, found[slots], points, slot_dry[slots], slot_lost[slots]
    )
    yield Look(finished, float(worth))
    slot_example[slots] = -1
    changed = load(np.flatnonzero(ended | ~busy))
