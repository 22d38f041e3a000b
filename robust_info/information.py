"""Information of a batch or a data set of predictions: I, L, CCKL, exactly.

`N` examples with logits [N, C] and labels [N] in [0, C). `p_i = softmax` of
row i, `Y^` a label drawn from it, `K` the true class. Everything is in nats.

All quantities come from one mergeable accumulator, `InformationStats`, of size
O(C^2): per class `a` the arithmetic mean `m_a` of the predictions, their
normalised geometric mean `g_a`, and the two spreads around them,

    I_a = mean_{i in a} KL(p_i || m_a),   L_a = mean_{i in a} KL(g_a || p_i).

For every pair of classes (each KL is a Bregman divergence, so that means
split off without a remainder, on either side) [ours]:

    mean_{i in a, j in b} KL(p_i || p_j) = I_a + KL(m_a || g_b) + L_b.

Every term is non-negative, so nothing cancels: the mean over all ordered
pairs is as accurate for nearly identical predictions as for confident ones,
at the price of O(N C) for the data and O(C^3) once for the summary.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp

from robust_info import _validate, divergences
from robust_info._compensated import Compensated

# Rows that are summed in working precision before a compensated addition.
_BLOCK = 1024
# Up to this many classes the [C, C, C] table of the summary is one array.
_DENSE_CLASSES = 64


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class InformationStats:
  """What a set of labelled predictions leaves behind; merge with `+`.

  The sum of the statistics of two sets is the statistics of their union, to
  rounding: sums are compensated (two floats a number), counts are integers
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
    """The statistics of no examples at all."""
    _validate.positive_int("num_classes", num_classes)
    return _zero_stats(num_classes, num_classes, dtype)

  @property
  def num_classes(self) -> int:
    """C."""
    return self.confusion.shape[-1]

  def __add__(self, other: "InformationStats") -> "InformationStats":
    if not isinstance(other, InformationStats):
      return NotImplemented
    if self.confusion.shape != other.confusion.shape:
      raise ValueError(
        "Expected InformationStats of the same classes, got num_classes="
        f"{self.num_classes} and num_classes={other.num_classes}."
      )
    prob_sum = self.prob_sum.plus(other.prob_sum)
    log_prob_sum = self.log_prob_sum.plus(other.log_prob_sum)
    confusion = self.confusion + other.confusion
    merged = InformationStats(
      confusion,
      prob_sum,
      log_prob_sum,
      self.spread.plus(other.spread),
      self.dual_spread.plus(other.dual_spread),
    )
    # The spread around the common mean exceeds the spreads around the two
    # means by what separates the means.
    log_mean, log_geometric = _centres(merged)
    spread, dual_spread = merged.spread, merged.dual_spread
    for part in (self, other):
      count = _count(part).astype(prob_sum.high.dtype)
      part_mean, part_geometric = _centres(part)
      spread = spread.plus(
        Compensated.of(
          _times(count, divergences.kl_divergence(part_mean, log_mean))
        )
      )
      dual_spread = dual_spread.plus(
        Compensated.of(
          _times(
            count, divergences.kl_divergence(log_geometric, part_geometric)
          )
        )
      )
    return dataclasses.replace(merged, spread=spread, dual_spread=dual_spread)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class InformationSummary:
  """The information quantities of a set of labelled predictions, in nats.

  Attributes:
    count: [], number of examples (int32).
    class_count: [C], examples by label (int32).
    accuracy: [], share of examples whose most probable class is the label.
    cross_entropy: [], mean of `-log p_i(k_i)`.
    label_entropy: [], `H(K)` of the empirical labels.
    prediction_entropy: [], `H(pbar)` of the mean prediction.
    mutual_information: [], `I(X;Y^) = mean_i KL(p_i || pbar)`.
    lautum_information: [], `L(X;Y^) = mean_i KL(pbar || p_i)` (Palomar and
      Verdu 2008).
    label_information: [], `I(K;Y^)` of the joint of label and prediction.
    conditional_information: [], `I(X;Y^|K)`; the chain rule
      `I(X;Y^) = I(K;Y^) + I(X;Y^|K)` holds by construction.
    variational_bound: [], `H(K) - cross_entropy`, at most `I(K;X)`, what the
      *input* tells of the label (Barber and Agakov 2003). It is no bound on
      `I(K;Y^)`: drawing Y^ from p adds noise, and confident, calibrated
      predictions have `I(K;Y^)` below it. May be negative.
    cckl: [], mean of `KL(p_i || p_j)` over all ordered pairs with different
      labels (arXiv:1906.02494). NaN if there is no such pair.
    cckl_matrix: [C, C], mean of `KL(p_i || p_j)` over all i of class a (row)
      and j of class b (column); on the diagonal over all ordered pairs within
      the class, i = j included. NaN for classes without examples.

  With no examples every mean is NaN. Identity A: the mean of the matrix
  weighted by `n_a n_b` is `mutual_information + lautum_information`.
  """

  count: jax.Array
  class_count: jax.Array
  accuracy: jax.Array
  cross_entropy: jax.Array
  label_entropy: jax.Array
  prediction_entropy: jax.Array
  mutual_information: jax.Array
  lautum_information: jax.Array
  label_information: jax.Array
  conditional_information: jax.Array
  variational_bound: jax.Array
  cckl: jax.Array
  cckl_matrix: jax.Array


def information_stats(
  logits: jax.Array, labels: jax.Array, *, where: jax.Array | None = None
) -> InformationStats:
  """Statistics of a batch of labelled predictions, to merge and summarise.

  Args:
    logits: [N, C], any float dtype (half precision is computed in float32).
    labels: [N] integers in [0, C).
    where: [N] booleans; `False` rows (padding) do not count, whatever they
      hold. `None` counts every row.

  Returns:
    `InformationStats`. Uneven, masked batches merged with `+` give the same
    summary as one call over all rows. A NaN in a counted row gives NaN. A label
    out of range raises where labels are concrete; under `jax.jit` it makes
    every float result NaN. Cost: O(N C) time, O(min(N, 1024) C + C^2)
    intermediate memory beyond the logits.

  Raises:
    TypeError: labels that are not integers.
    ValueError: wrong shapes, or labels out of range.
  """
  logits, labels, where = _check(logits, labels, where)
  return _grouped_stats(logits, labels, where, logits.shape[-1])


@jax.jit
def summarize(stats: InformationStats) -> InformationSummary:
  """The information quantities of the examples behind `stats`.

  Args:
    stats: from `information_stats`, or a sum of such.

  Returns:
    `InformationSummary`; see there for the edge cases. Cost: O(C^3) time,
    O(C^3) memory up to 64 classes and O(C^2) beyond.
  """
  dtype = stats.prob_sum.high.dtype
  class_count = _count(stats)
  count = jnp.sum(class_count)
  total = count.astype(dtype)
  weight = class_count / total
  mean, dual = _spreads(stats)
  log_mean, log_geometric = _centres(stats)
  prob_sum = _sum_over_classes(stats.prob_sum)
  log_pbar = _safe_log(prob_sum.value / jnp.maximum(total, 1))

  to_mean = divergences.kl_divergence(
    log_mean, jnp.broadcast_to(log_pbar, log_mean.shape)
  )
  from_mean = divergences.kl_divergence(
    jnp.broadcast_to(log_pbar, log_geometric.shape), log_geometric
  )
  label_information = jnp.sum(_times(weight, to_mean))
  conditional = jnp.sum(_times(weight, mean))
  lautum = jnp.sum(_times(weight, from_mean + dual))

  matrix = (
    mean[:, None] + _centre_divergences(log_mean, log_geometric) + dual[None, :]
  )
  present = class_count > 0
  pairs = weight[:, None] * weight[None, :]
  cross = ~jnp.eye(stats.num_classes, dtype=bool)
  cross_weight = jnp.where(cross, pairs, 0.0)
  cckl = jnp.sum(_times(cross_weight, matrix)) / jnp.sum(cross_weight)

  label_entropy = divergences.entropy(_safe_log(class_count.astype(dtype)))
  # log_prob_sum[a, a] sums log p_i(k_i) over class a.
  own = Compensated(
    jnp.diagonal(stats.log_prob_sum.high), jnp.diagonal(stats.log_prob_sum.low)
  )
  cross_entropy = -_sum_over_classes(own).value / total
  nothing = jnp.where(count > 0, jnp.zeros((), dtype), jnp.nan)
  return InformationSummary(
    count=count,
    class_count=class_count,
    accuracy=jnp.trace(stats.confusion) / total,
    cross_entropy=cross_entropy,
    label_entropy=label_entropy + nothing,
    prediction_entropy=divergences.entropy(log_pbar) + nothing,
    mutual_information=label_information + conditional,
    lautum_information=lautum,
    label_information=label_information,
    conditional_information=conditional,
    variational_bound=label_entropy - cross_entropy,
    cckl=cckl,
    cckl_matrix=jnp.where(
      present[:, None] & present[None, :], matrix, jnp.asarray(jnp.nan, dtype)
    ),
  )


def mutual_information(
  logits: jax.Array, *, where: jax.Array | None = None
) -> jax.Array:
  """`I(X;Y^) = H(pbar) - mean_i H(p_i) = mean_i KL(p_i || pbar)` of a batch.

  The mutual information between which of the N inputs was shown and the label
  drawn from its prediction; equals the generalised Jensen-Shannon divergence.

  Args:
    logits: [N, C].
    where: [N] booleans; `False` rows do not count.

  Returns:
    [], nats, in [0, min(log N, log C)]. NaN if no row counts. A batch estimate
    is biased low for small N (bounded by log N): over a data set merge
    `information_stats` instead of averaging batches. Cost O(N C).
  """
  stats = _unlabelled_stats(logits, where)
  return _per_example(stats.spread, stats)


def lautum_information(
  logits: jax.Array, *, where: jax.Array | None = None
) -> jax.Array:
  """`L(X;Y^) = mean_i KL(pbar || p_i)` (Palomar and Verdu 2008).

  Args:
    logits: [N, C].
    where: [N] booleans; `False` rows do not count.

  Returns:
    [], nats, at least 0, unbounded; `inf` if some class is impossible for one
    example and possible for another. NaN if no row counts. With
    `mutual_information` it adds up to the mean of `KL(p_i||p_j)` over all N^2
    ordered pairs (Identity A [ours]). Cost O(N C).
  """
  stats = _unlabelled_stats(logits, where)
  log_mean, log_geometric = _centres(stats)
  between = divergences.kl_divergence(log_mean, log_geometric)[0]
  return between + _per_example(stats.dual_spread, stats)


def label_information(
  logits: jax.Array, labels: jax.Array, *, where: jax.Array | None = None
) -> jax.Array:
  """`I(K;Y^)`: what the predicted label tells about the true one.

  From the joint `q(k, y) = (1/N) sum_i 1[k_i = k] p_i(y)`.

  Args:
    logits: [N, C].
    labels: [N] integers in [0, C).
    where: [N] booleans; `False` rows do not count.

  Returns:
    [], nats, in [0, I(X;Y^)]. NaN if no row counts. Cost O(N C + C^3).
  """
  return summarize(
    information_stats(logits, labels, where=where)
  ).label_information


def cckl(
  logits: jax.Array, labels: jax.Array, *, where: jax.Array | None = None
) -> jax.Array:
  """CCKL: mean of `KL(p_i||p_j)` over ordered pairs of different classes.

  The performance metric of arXiv:1906.02494, exact over *all* such pairs of
  the batch in O(N C + C^3) [ours].

  Args:
    logits: [N, C].
    labels: [N] integers in [0, C).
    where: [N] booleans; `False` rows do not count.

  Returns:
    [], nats, at least 0, unbounded. NaN if no two counted rows differ in
    label.
  """
  return summarize(information_stats(logits, labels, where=where)).cckl


def _check(logits, labels, where):
  logits = _check_batch(logits)
  num_examples, num_classes = logits.shape
  labels = _validate.labels("labels", labels, num_examples)
  where = _validate.mask("where", where, num_examples)
  _validate.labels_in_range("labels", labels, num_classes, where)
  return logits, labels, where


def _check_batch(logits):
  logits = _validate.float_array("logits", logits)
  _validate.rank("logits", logits, 2, "[N, C]")
  if logits.shape[-1] == 0:
    raise ValueError(
      f"Expected logits with at least one class, got shape {logits.shape}."
    )
  return logits


def _unlabelled_stats(logits, where):
  logits = _check_batch(logits)
  where = _validate.mask("where", where, logits.shape[0])
  labels = jnp.zeros(logits.shape[:1], jnp.int32)
  return _grouped_stats(logits, labels, where, 1)


def _per_example(total: Compensated, stats: InformationStats) -> jax.Array:
  return total.value[0] / jnp.sum(stats.confusion)


def _zero_stats(num_groups, num_classes, dtype):
  def zeros(*shape):
    return Compensated.of(jnp.zeros(shape, dtype))

  return InformationStats(
    confusion=jnp.zeros((num_groups, num_classes), jnp.int32),
    prob_sum=zeros(num_groups, num_classes),
    log_prob_sum=zeros(num_groups, num_classes),
    spread=zeros(num_groups),
    dual_spread=zeros(num_groups),
  )


@functools.partial(jax.jit, static_argnames="num_groups")
def _grouped_stats(logits, labels, where, num_groups) -> InformationStats:
  num_examples, num_classes = logits.shape
  bad = where & ((labels < 0) | (labels >= num_groups))
  # Masked rows may hold anything: neutralise them before any arithmetic, so
  # that neither values nor gradients see them.
  logits = jnp.where(where[:, None], logits, 0.0)
  logits = jnp.where(bad[:, None], jnp.nan, logits)
  labels = jnp.clip(jnp.where(where, labels, 0), 0, num_groups - 1)
  if num_examples <= _BLOCK:
    return _block_stats(logits, labels, where, num_groups)

  num_blocks = -(-num_examples // _BLOCK)
  padding = num_blocks * _BLOCK - num_examples

  def blocks(array):
    widths = [(0, padding)] + [(0, 0)] * (array.ndim - 1)
    return jnp.pad(array, widths).reshape(
      (num_blocks, _BLOCK, *array.shape[1:])
    )

  def merge(stats, block):
    return stats + _block_stats(*block, num_groups), None

  stats, _ = jax.lax.scan(
    merge,
    _zero_stats(num_groups, num_classes, logits.dtype),
    (blocks(logits), blocks(labels), blocks(where)),
  )
  return stats


def _block_stats(logits, labels, where, num_groups) -> InformationStats:
  log_p = divergences.log_softmax(logits)
  counted = where[:, None]

  def by_group(rows):
    return jax.ops.segment_sum(rows, labels, num_groups)

  prediction = jax.nn.one_hot(
    jnp.argmax(logits, axis=-1), logits.shape[-1], dtype=jnp.int32
  )
  stats = InformationStats(
    confusion=by_group(jnp.where(counted, prediction, 0)),
    prob_sum=Compensated.of(by_group(jnp.where(counted, jnp.exp(log_p), 0.0))),
    log_prob_sum=Compensated.of(by_group(jnp.where(counted, log_p, 0.0))),
    spread=Compensated.of(jnp.zeros((num_groups,), logits.dtype)),
    dual_spread=Compensated.of(jnp.zeros((num_groups,), logits.dtype)),
  )
  log_mean, log_geometric = _centres(stats)
  to_mean = divergences.kl_divergence(logits, log_mean[labels])
  from_geometric = divergences.kl_divergence(log_geometric[labels], logits)
  return dataclasses.replace(
    stats,
    spread=Compensated.of(by_group(jnp.where(where, to_mean, 0.0))),
    dual_spread=Compensated.of(by_group(jnp.where(where, from_geometric, 0.0))),
  )


def _count(stats: InformationStats) -> jax.Array:
  return jnp.sum(stats.confusion, axis=-1)


def _centres(stats: InformationStats) -> tuple[jax.Array, jax.Array]:
  """Logits of the arithmetic and of the geometric mean prediction by group.

  Groups without examples get the uniform prediction: finite, and of weight 0.
  """
  count = _count(stats)
  empty = (count == 0)[:, None]
  denominator = jnp.maximum(count, 1)[:, None].astype(stats.prob_sum.high.dtype)
  mean = jnp.where(empty, 1.0, stats.prob_sum.value / denominator)
  log_geometric = stats.log_prob_sum.value / denominator
  # Where every class is impossible for some example there is no geometric
  # mean; any stand-in gives the infinite dual spread that is right.
  no_support = jnp.all(log_geometric == -jnp.inf, axis=-1, keepdims=True)
  return _safe_log(mean), jnp.where(no_support, 0.0, log_geometric)


def _spreads(stats: InformationStats) -> tuple[jax.Array, jax.Array]:
  denominator = jnp.maximum(_count(stats), 1).astype(stats.spread.high.dtype)
  return (
    stats.spread.value / denominator,
    stats.dual_spread.value / denominator,
  )


def _centre_divergences(log_mean, log_geometric):
  """`KL(m_a || g_b)` for all pairs of groups, [C, C]."""

  def row(log_m):
    return divergences.kl_divergence(
      jnp.broadcast_to(log_m, log_geometric.shape), log_geometric
    )

  if log_mean.shape[0] <= _DENSE_CLASSES:
    return jax.vmap(row)(log_mean)
  return jax.lax.map(row, log_mean)


def _sum_over_classes(sums: Compensated) -> Compensated:
  """Sums the leading axis, carrying the compensation along."""

  def add(total, term):
    return total.plus(term), None

  zero = jax.tree.map(lambda array: jnp.zeros_like(array[0]), sums)
  return jax.lax.scan(add, zero, sums)[0]


def _safe_log(value: jax.Array) -> jax.Array:
  """`log`, with `-inf` and a zero gradient at 0."""
  is_zero = value == 0
  return jnp.where(is_zero, -jnp.inf, jnp.log(jnp.where(is_zero, 1.0, value)))


def _times(weight: jax.Array, value: jax.Array) -> jax.Array:
  """`weight * value` with `0 * inf = 0`; a NaN of positive weight stays."""
  weightless = weight == 0
  return jnp.where(weightless, 0.0, weight * jnp.where(weightless, 0.0, value))
