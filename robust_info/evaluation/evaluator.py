"""Compiled functions of one network over the examples or pairs of a split.

Variables and data are arguments of the compiled functions, so that checkpoints
of one architecture share the programs. All examples count: the last, incomplete
batch is padded and masked. Batches are split over all devices, see `sharding`;
results are NumPy arrays on every process. The metrics are in `metrics`, one
file per metric.

Shapes: `N` examples, `B` rows of a batch, `C` classes, `P` pairs.
"""

import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from robust_info import config as config_lib
from robust_info import data
from robust_info.evaluation import predictions, programs
from robust_info.lenses import pairs as pairs_lib
from robust_info.runtime import progress, sharding

ApplyFn = Callable[[Any, jax.Array], jax.Array]
# Indices of the examples x and x' of pairs, both int [P].
Pairs = tuple[np.ndarray, np.ndarray]


class Rows(NamedTuple):
  """A batch of examples, the input of a measurement.

  Attributes:
    x: float [B, ...] in [0, 1], inputs.
    label: int [B], labels.
    where: bool [B], False in the padding.
    ids: int [B], row numbers in the split; they determine the randomness.
    start: int [], the first row number.
  """

  x: jax.Array
  label: jax.Array
  where: jax.Array
  ids: jax.Array
  start: jax.Array


class Keys(NamedTuple):
  """Independent random keys, one per purpose."""

  pairs: jax.Array
  attack: jax.Array
  probes: jax.Array
  coarse_pairs: jax.Array


class Evaluator:
  """Compiled measurements of the networks of one architecture on one split.

  `split`, `settings` and `seed` are the arguments; `keys` come from the seed.

  Two evaluators with the same arguments give the same numbers. The randomness
  of an attack depends on the example and the randomness of a pair on the pair:
  another batch size changes results by rounding only. (Fisher norms are exact
  up to `fisher.AUTO_CLASSES` classes; for more classes they are estimates
  that depend on the batches.)
  """

  def __init__(
    self,
    apply_fn: ApplyFn,
    split: data.Split,
    *,
    num_classes: int,
    settings: config_lib.EvaluationConfig,
    seed: int,
  ):
    """Stores the arguments; compiles nothing yet.

    Args:
      apply_fn: function (variables, x [N, ...] in [0, 1]) -> logits [N, C], in
        evaluation mode.
      split: the examples.
      num_classes: number C of classes.
      settings: threat model, and sizes of batches and samples.
      seed: seed of attacks, pairs, and probes of the Fisher information.
    """
    self._apply = apply_fn
    self.split = split
    self.settings = settings
    self.seed = seed
    self.keys = Keys(*jax.random.split(jax.random.key(seed), 4))
    self._batch_size = sharding.round_up(min(settings.batch_size, len(split)))
    self._tally = predictions.Tally(
      split.labels, num_classes, batch_size=self._batch_size
    )
    # (function, whether of pairs, its static arguments) -> program.
    self._programs: dict[Any, Callable[..., Any]] = {}

  @property
  def labels(self) -> np.ndarray:
    """The labels of the split, [N]."""
    return self.split.labels

  def logits_fn(self, variables: Any) -> jax.tree_util.Partial:
    """The network as a function of float inputs, not compiled.

    `variables` are leaves of the function, so that programs compiled for one
    network serve all others.
    """
    return jax.tree_util.Partial(self._apply, variables)

  def predict(self, variables: Any) -> predictions.Predictions:
    """Clean predictions: one forward pass per example."""
    return self.tally(self.by_batch(_forward, variables))

  def logits(self, variables: Any) -> np.ndarray:
    """Clean logits [N, C], in memory."""
    return self.over_examples(_forward, variables)

  def tally(
    self, logits: np.ndarray | jax.Array | Iterable[np.ndarray]
  ) -> predictions.Predictions:
    """`Predictions` from logits of the examples, at clean or other inputs.

    Args:
      logits: logits [N, C], or an iterator over the logits of batches, padding
        included.
    """
    if isinstance(logits, np.ndarray | jax.Array):
      starts = range(0, len(logits), self._batch_size)
      return self._tally(logits[i : i + self._batch_size] for i in starts)
    return self._tally(logits)

  def over_examples(
    self,
    fn: Callable[..., Any],
    variables: Any,
    *arguments: Any,
    tick: progress.Tick | None = None,
    **static: Any,
  ) -> Any:
    """Results [N, ...] of `fn` on every example, NumPy.

    Args:
      fn: function (logits_fn, rows, *arguments, **static) -> arrays [B, ...]; a
        function of a module, compiled once per `static`.
      variables: variables of the network.
      *arguments: arrays and numbers, not compiled in.
      tick: function called with the numbers (done, total) of examples.
      **static: hashable arguments, compiled in.
    """
    found = self.by_batch(fn, variables, *arguments, tick=tick, **static)
    return _joined(found, len(self.split))

  def by_batch(
    self,
    fn: Callable[..., Any],
    variables: Any,
    *arguments: Any,
    tick: progress.Tick | None = None,
    **static: Any,
  ) -> Iterator[Any]:
    """Yields the results of `over_examples`, batch by batch, with padding."""
    total, size = len(self.split), self._batch_size
    local = sharding.local_rows(size)
    program = self._program(fn, static)
    batches = data.eval_batches(self.split, batch_size=size, rows=local)
    for number, batch in enumerate(batches):
      start = number * size
      ids, batch = sharding.split_rows(
        ((start + np.arange(size))[local], batch)
      )
      yield jax.device_get(program(variables, batch, ids, start, *arguments))
      if tick is not None:
        tick(min(start + size, total), total)

  def digest(
    self,
    fn: Callable[..., Any],
    variables: Any,
    *arguments: Any,
    **static: Any,
  ) -> str | None:
    """Identifier of the program that `over_examples` runs.

    Returns:
      As `programs.digest`; the program includes that of the network.
    """
    batch = next(data.eval_batches(self.split, batch_size=self._batch_size))
    ids = np.arange(self._batch_size)
    run = functools.partial(self._on_rows, functools.partial(fn, **static))
    return programs.digest(run, variables, batch, ids, 0, *arguments)

  def at(
    self,
    fn: Callable[..., Any],
    variables: Any,
    indices: np.ndarray,
    *arguments: Any,
    **static: Any,
  ) -> Any:
    """Results of `fn`, see `over_examples`, on M examples in one batch."""
    batch = data.Batch(
      image=self.split.images[indices],
      label=self.split.labels[indices],
      mask=np.ones(len(indices), bool),
    )
    program = self._program(fn, static)
    return jax.device_get(program(variables, batch, indices, 0, *arguments))

  def over_pairs(
    self,
    fn: Callable[..., Any],
    variables: Any,
    pairs: Pairs,
    *,
    tick: progress.Tick | None = None,
    **static: Any,
  ) -> Any:
    """Results of `fn` on pairs of examples, in padded batches of one shape.

    Args:
      fn: function (logits_fn, x, x_other, **static) -> arrays [B, ...].
      variables: variables of the network.
      pairs: indices of the examples of each pair, both [P].
      tick: function called with the numbers (done, total) of pairs.
      **static: hashable arguments, compiled in.

    Returns:
      The results [P, ...], NumPy.
    """
    num_pairs = len(pairs[0])
    size = sharding.round_up(min(self.settings.batch_size, num_pairs))
    program = self._program(fn, static, of_pairs=True)
    found = []
    for start in range(0, num_pairs, size):
      rows = np.arange(start, start + size)[sharding.local_rows(size)]
      # Padding repeats the last pair; it is removed below.
      rows = np.minimum(rows, num_pairs - 1)
      x, x_other = sharding.split_rows(
        [self.split.images[side[rows]] for side in pairs]
      )
      found.append(jax.device_get(program(variables, x, x_other)))
      if tick is not None:
        tick(min(start + size, num_pairs), num_pairs)
    return _joined(found, num_pairs)

  def pair_indices(self) -> Pairs:
    """The pairs of the lenses; they depend on the seed and the labels only.

    Raises:
      ValueError: all examples have the same label.
    """
    return self._sample_pairs(self.keys.pairs, self.settings.num_pairs)

  def coarse_pair_indices(self) -> Pairs:
    """A larger, independent sample of pairs for the cheap lenses.

    These are the local lens and the coarse path lens.
    """
    return self._sample_pairs(
      self.keys.coarse_pairs, self.settings.num_coarse_pairs
    )

  def _sample_pairs(self, key: jax.Array, num_pairs: int) -> Pairs:
    first, second = pairs_lib.sample_cross_pairs(
      key, self.split.labels, num_pairs=num_pairs
    )
    return np.asarray(first), np.asarray(second)

  def _program(self, fn, static, *, of_pairs=False):
    name = (fn, of_pairs, tuple(sorted(static.items())))
    if name not in self._programs:
      run = self._on_pairs if of_pairs else self._on_rows
      # Results are replicated, so that every process has all rows.
      self._programs[name] = jax.jit(
        functools.partial(run, functools.partial(fn, **static)),
        out_shardings=sharding.replicated(),
      )
    return self._programs[name]

  def _on_rows(self, fn, variables, batch, ids, start, *arguments):
    x = data.to_float(batch.image)
    rows = Rows(x, batch.label, batch.mask, ids, start)
    return fn(self.logits_fn(variables), rows, *arguments)

  def _on_pairs(self, fn, variables, x, x_other):
    x, x_other = data.to_float(x), data.to_float(x_other)
    return fn(self.logits_fn(variables), x, x_other)


def random_rows(split: data.Split, limit: int, seed: int) -> np.ndarray:
  """At most `limit` examples of a split, chosen by the seed only, sorted."""
  return np.sort(data.epoch_permutation(seed, 0, len(split))[:limit])


def _forward(logits_fn, rows):
  return logits_fn(rows.x)


def _joined(blocks: Iterable[Any], num_rows: int) -> Any:
  """The rows of all batches, without the padding at their end."""
  return jax.tree.map(lambda *rows: np.concatenate(rows)[:num_rows], *blocks)
