"""The mergeable accumulator behind every information quantity.

`N` examples with logits [N, C] and labels [N] in [0, C). `p_i = softmax` of
row i. For each class `a` the accumulator holds the arithmetic mean `m_a` of the
predictions, their normalised geometric mean `g_a`, and the two spreads

    I_a = mean_{i in a} KL(p_i || m_a),   L_a = mean_{i in a} KL(g_a || p_i).

KL is a Bregman divergence in either argument, so means split off without a
remainder: for any set A inside a set B with the means (m_A, g_A) and (m, g),

    sum_{i in A} KL(p_i || m) = sum_{i in A} KL(p_i || m_A) + n_A KL(m_A || m),
    sum_{i in A} KL(g || p_i) = sum_{i in A} KL(g_A || p_i) + n_A KL(g || g_A).

Two accumulators merge by these identities. Every term is non-negative, so
nothing cancels. A difference of two means is taken between compensated numbers
(two floats each), so it keeps its digits however close they are.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Bool, Float, Integer

from robust_info import _validate
from robust_info._xla import explicit_meshes
from robust_info.information import (
  _compensated,
  _mean_divergences,
  _stacking,
  divergences,
)
from robust_info.information._compensated import Compensated

# Rows per block, between two compensated merges: enough to amortise the O(C^2)
# of a merge, few enough to stay in cache. Few classes leave room for more rows.
_MIN_BLOCK, _MAX_SMALL_BLOCK = 4096, 16384
_SMALL_BLOCK_SIZE = 2**18
_ROWS_PER_GROUP = 4
# Rows of a block that are added one after another: rounding grows with the
# length of a sum.
_RUN = 1024


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class InformationStats:
  """Mergeable statistics of a set of labelled predictions; merge with `+`.

  The sum of the statistics of two sets is the statistics of their union, to
  rounding: sums are compensated (two floats per number), counts are integers
  (at most 2^31 - 1 examples). `InformationStats.identity(C)` is the neutral
  element. The fields are an internal representation; read results from
  `summarize`.

  Attributes:
    confusion: [C, C] int32, examples by (label, most probable class).
    prob_sum: [C, C], sum of `p_i` by label.
    log_prob_sum: [C, C], sum of `log p_i` by label.
    spread: [C], sum of `KL(p_i || m_a)` over the examples of class a.
    dual_spread: [C], sum of `KL(g_a || p_i)` over the examples of class a.
  """

  confusion: jax.Array
  prob_sum: Compensated
  log_prob_sum: Compensated
  spread: Compensated
  dual_spread: Compensated

  @classmethod
  def identity(
    cls, num_classes: int, dtype: jnp.dtype = jnp.float32
  ) -> "InformationStats":
    """Statistics of an empty set of examples."""
    _validate.positive_int("num_classes", num_classes)
    return _zero_stats(num_classes, jnp.zeros((0, num_classes), dtype))

  @property
  def num_classes(self) -> int:
    """Number of classes, C."""
    return self.confusion.shape[-1]

  def __add__(self, other: "InformationStats") -> "InformationStats":
    if not isinstance(other, InformationStats):
      return NotImplemented
    for stats in (self, other):
      _stacking.require_one_set("stats", stats)
    if self.confusion.shape != other.confusion.shape:
      raise ValueError(
        "Expected InformationStats of the same classes, got num_classes="
        f"{self.num_classes} and num_classes={other.num_classes}."
      )
    return _merge(self, other)


@jax.jit
def _merge(one: InformationStats, other: InformationStats) -> InformationStats:
  merged = InformationStats(
    one.confusion + other.confusion,
    one.prob_sum.plus(other.prob_sum),
    one.log_prob_sum.plus(other.log_prob_sum),
    one.spread.plus(other.spread),
    one.dual_spread.plus(other.dual_spread),
  )
  mean, geometric = arithmetic_means(merged), log_prob_means(merged)

  @jax.vmap
  def moved(part):
    """Increase of the spreads when the means of a part move to the union's."""
    count = class_count(part).astype(part.spread.high.dtype)
    to_mean = _mean_divergences.kl_of_means(arithmetic_means(part), mean)
    from_mean = _mean_divergences.kl_of_geometric_means(
      geometric, log_prob_means(part)
    )
    return times(count, to_mean), times(count, from_mean)

  gains = moved(jax.tree.map(lambda *leaves: jnp.stack(leaves), one, other))
  spread, dual_spread = (
    total.plus(Compensated.of(gain[0])).plus(Compensated.of(gain[1]))
    for total, gain in zip(
      (merged.spread, merged.dual_spread), gains, strict=True
    )
  )
  return dataclasses.replace(merged, spread=spread, dual_spread=dual_spread)


@explicit_meshes.accepted(rows=False)
def information_stats(
  logits: Float[ArrayLike, "N C"],
  labels: Integer[ArrayLike, " N"],
  *,
  where: Bool[ArrayLike, " N"] | None = None,
) -> InformationStats:
  """Statistics of a batch of labelled predictions, to merge and summarise.

  Args:
    logits: [N, C], any float dtype (half precision is computed in float32).
    labels: [N] integers of any width in [0, C); a list or an array.
    where: [N] booleans; `False` rows (padding) do not count, for any contents.
      `None` counts every row.

  Returns:
    `InformationStats`. Uneven, masked batches merged with `+` give the same
    summary as one call over all rows. A NaN in a counted row gives NaN. A label
    out of range raises where labels are concrete; under `jax.jit` it makes
    every float result NaN. Cost: O(N C) time, and O(C^2) for every block of
    rows: 16,384 up to 16 classes, fewer for more, at least 4096 and 4 C;
    intermediate memory for as many rows.

  Raises:
    TypeError: labels that are not integers.
    ValueError: wrong shapes, or labels out of range.
  """
  logits, labels, where = check_labelled(logits, labels, where)
  return stats_of_groups(logits, labels, where, logits.shape[-1])


def check_labelled(
  logits: ArrayLike, labels: ArrayLike, where: ArrayLike | None
) -> tuple[jax.Array, jax.Array, jax.Array | None]:
  """Returns valid logits [N, C], labels [N] and mask [N] or `None`."""
  logits = check_batch(logits)
  num_examples, num_classes = logits.shape
  where = _validate.mask("where", where, num_examples)
  labels = _validate.labels("labels", labels, num_examples, where)
  _validate.labels_in_range("labels", labels, num_classes, where)
  _validate.warn_of_probabilities("logits", logits, where, stacklevel=5)
  return logits, labels, where


def check_unlabelled(
  logits: ArrayLike, where: ArrayLike | None
) -> tuple[jax.Array, jax.Array | None]:
  """Returns valid logits [N, C] and mask [N] or `None`."""
  logits = check_batch(logits)
  where = _validate.mask("where", where, logits.shape[0])
  _validate.warn_of_probabilities("logits", logits, where, stacklevel=5)
  return logits, where


def unlabelled_stats(
  logits: jax.Array, where: jax.Array | None
) -> InformationStats:
  """Statistics of all rows as a single group: fields [1, C] and [1]."""
  labels = jnp.zeros(logits.shape[:1], jnp.int32)
  return stats_of_groups(logits, labels, where, 1)


def check_batch(logits: ArrayLike) -> jax.Array:
  """Returns float logits [N, C] of two or more classes, or raises an error."""
  logits = _validate.float_array("logits", logits)
  _validate.rank("logits", logits, 2, "[N, C]")
  _validate.classes("logits", logits.shape)
  return logits


def class_count(stats: InformationStats) -> jax.Array:
  """Examples by label: [C] int32."""
  return jnp.sum(stats.confusion, axis=-1, dtype=jnp.int32)


def arithmetic_means(stats: InformationStats) -> Compensated:
  """`m_a` [C, C]; uniform for groups without examples (of weight 0)."""
  mean = stats.prob_sum.over(_divisor(stats, stats.prob_sum.high.dtype))
  empty = (class_count(stats) == 0)[:, None]
  uniform = 1.0 / stats.num_classes
  return Compensated(
    jnp.where(empty, uniform, mean.high), jnp.where(empty, 0.0, mean.low)
  )


def log_prob_means(stats: InformationStats) -> Compensated:
  """`mean log p_i` by label, [C, C]: `log g_a` up to its normaliser.

  If every class is impossible for some example there is no geometric mean; any
  substitute then gives the correct, infinite dual spread.
  """
  mean = stats.log_prob_sum.over(_divisor(stats, stats.log_prob_sum.high.dtype))
  no_support = jnp.all(mean.high == -jnp.inf, axis=-1, keepdims=True)
  return Compensated(jnp.where(no_support, 0.0, mean.high), mean.low)


def total(sums: Compensated) -> Compensated:
  """Sums over the leading axis, with compensation."""

  def add(total, term):
    return total.plus(term), None

  zero = jax.tree.map(lambda array: jnp.zeros_like(array[0]), sums)
  return jax.lax.scan(add, zero, sums)[0]


def safe_log(value: jax.Array) -> jax.Array:
  """`log`, with `-inf` and a zero gradient at 0."""
  is_zero = value == 0
  return jnp.where(is_zero, -jnp.inf, jnp.log(jnp.where(is_zero, 1.0, value)))


def times(weight: jax.Array, value: jax.Array) -> jax.Array:
  """`weight * value` with `0 * inf = 0`; a NaN of positive weight stays."""
  weightless = weight == 0
  return jnp.where(weightless, 0.0, weight * jnp.where(weightless, 0.0, value))


def _divisor(stats, dtype):
  return jnp.maximum(class_count(stats), 1)[:, None].astype(dtype)


def _zero_stats(num_groups, logits):
  """Statistics of no rows; replicated or split by device as the logits are."""
  num_classes = logits.shape[-1]

  def zeros(*shape):
    return Compensated.of(jnp.zeros_like(logits, shape=shape))

  return InformationStats(
    confusion=jnp.zeros_like(
      logits, jnp.int32, shape=(num_groups, num_classes)
    ),
    prob_sum=zeros(num_groups, num_classes),
    log_prob_sum=zeros(num_groups, num_classes),
    spread=zeros(num_groups),
    dual_spread=zeros(num_groups),
  )


@functools.partial(jax.jit, static_argnames="num_groups")
def stats_of_groups(
  logits: jax.Array,
  labels: jax.Array,
  where: jax.Array | None,
  num_groups: int,
) -> InformationStats:
  """Statistics [G, C] of rows [N, C] by group: `labels` [N] in [0, G)."""
  num_examples, num_classes = logits.shape
  where = _validate.filled_mask(where, num_examples)
  bad = where & ((labels < 0) | (labels >= num_groups))
  # Masked rows may hold any values: neutralise them before any arithmetic, so
  # that they reach neither values nor gradients.
  logits = jnp.where(where[:, None], logits, 0.0)
  logits = jnp.where(bad[:, None], jnp.nan, logits)
  labels = jnp.clip(jnp.where(where, labels, 0), 0, num_groups - 1)
  block_size = _block_size(num_groups, num_classes)
  if num_examples <= block_size:
    return _block_stats(logits, labels, where, num_groups)

  # Full blocks in a loop over slices (no padded copy), then the remaining rows.
  num_blocks = num_examples // block_size

  def merge(stats, index):
    block = (
      jax.lax.dynamic_slice_in_dim(array, index * block_size, block_size)
      for array in (logits, labels, where)
    )
    return stats + _block_stats(*block, num_groups), None

  stats, _ = jax.lax.scan(
    merge,
    _zero_stats(num_groups, logits),
    jnp.arange(num_blocks),
  )
  start = num_blocks * block_size
  if start == num_examples:
    return stats
  rest = (array[start:] for array in (logits, labels, where))
  return stats + _block_stats(*rest, num_groups)


def _block_size(num_groups: int, num_classes: int) -> int:
  """Rows per block, for G groups of predictions of C classes."""
  small = min(_SMALL_BLOCK_SIZE // num_classes, _MAX_SMALL_BLOCK)
  return max(_MIN_BLOCK, small, _ROWS_PER_GROUP * num_groups)


def _block_stats(logits, labels, where, num_groups) -> InformationStats:
  dtype = logits.dtype
  log_p = divergences.log_softmax(logits)
  # Explicit: fused with later operations, XLA's exp may turn NaN into 0.
  p = jnp.where(jnp.isnan(log_p), log_p, jnp.exp(log_p))

  # At most as many sums as rows, for any number of groups.
  num_rows = len(labels)
  num_runs = max(1, min(-(-num_rows // _RUN), num_rows // num_groups))
  run = jnp.arange(num_rows, dtype=jnp.int32) * num_runs // max(num_rows, 1)
  sum_index = labels + num_groups * run

  def by_group(rows):
    mask = where.reshape(where.shape + (1,) * (rows.ndim - 1))
    rows = jnp.where(mask, rows, jnp.zeros((), rows.dtype))
    sums = jax.ops.segment_sum(rows, sum_index, num_runs * num_groups)
    return jnp.sum(sums.reshape(num_runs, num_groups, *rows.shape[1:]), axis=0)

  # Column of the most probable class, as one scatter of N integers.
  best = jnp.argmax(logits, axis=-1).astype(jnp.int32)
  num_classes = logits.shape[-1]
  confusion = jax.ops.segment_sum(
    where.astype(jnp.int32),
    labels * num_classes + best,
    num_groups * num_classes,
  ).reshape(num_groups, num_classes)
  count = jnp.sum(confusion, axis=-1)
  divisor = jnp.maximum(count, 1)[:, None].astype(dtype)

  # Means in working precision. The deviations from them recover the digits
  # that their sums lost; the spreads are not affected (the difference is of
  # second order).
  empty = (count == 0)[:, None]
  mean = jnp.where(empty, 1.0 / num_classes, by_group(p) / divisor)
  log_mean = safe_log(mean)
  mean_log = by_group(log_p) / divisor
  no_support = jnp.all(mean_log == -jnp.inf, axis=-1, keepdims=True)
  log_geometric = divergences.log_softmax(jnp.where(no_support, 0.0, mean_log))
  geometric = jnp.exp(log_geometric)

  own_mean, own_log_mean = mean[labels], log_mean[labels]
  own_geometric, own_log_geometric = geometric[labels], log_geometric[labels]
  impossible = own_log_geometric == -jnp.inf
  deviation = jnp.where(impossible, 0.0, log_p) - jnp.where(
    impossible, 0.0, own_log_geometric
  )
  # A probability below the float range divided by N may round to 0.
  is_zero = (p == 0) | (own_mean == 0)
  to_mean = divergences.kl_from_log_ratio(
    jnp.where(is_zero, 0.0, p),
    own_mean,
    jnp.where(is_zero, 0.0, own_log_mean) - jnp.where(is_zero, 0.0, log_p),
  )
  from_geometric = divergences.kl_from_log_ratio(own_geometric, p, deviation)

  whole = count[:, None].astype(dtype)
  prob_sum = _compensated.product(whole, jnp.where(empty, 0.0, mean)).plus(
    Compensated.of(by_group(p - own_mean))
  )
  log_prob_sum = _compensated.product(
    whole, jnp.where(empty | (log_geometric == -jnp.inf), 0.0, log_geometric)
  ).plus(Compensated.of(by_group(deviation)))
  lost = jnp.isneginf(mean_log)
  log_prob_sum = Compensated(
    jnp.where(lost, -jnp.inf, log_prob_sum.high),
    jnp.where(lost, 0.0, log_prob_sum.low),
  )
  return InformationStats(
    confusion=confusion,
    prob_sum=prob_sum,
    log_prob_sum=log_prob_sum,
    spread=Compensated.of(by_group(to_mean)),
    dual_spread=Compensated.of(by_group(from_geometric)),
  )
