"""Information of a batch or a data set of predictions: I, L, CCKL, exactly.

`N` examples with logits [N, C] and labels [N] in [0, C). `p_i = softmax` of
row i, `Y^` a label drawn from it, `K` the true class. Everything is in nats.

All quantities come from one mergeable accumulator, `InformationStats`, of size
O(C^2): for each class `a` the arithmetic mean `m_a` of the predictions, their
normalised geometric mean `g_a`, and the two spreads around them,

    I_a = mean_{i in a} KL(p_i || m_a),   L_a = mean_{i in a} KL(g_a || p_i).

For every pair of classes (each KL is a Bregman divergence, so means split off
without a remainder, on either side) [ours]:

    mean_{i in a, j in b} KL(p_i || p_j) = I_a + KL(m_a || g_b) + L_b.

Every term is non-negative, so nothing cancels: the mean over all ordered pairs
is as accurate for nearly identical predictions as for confident ones. It costs
O(N C) for the data and O(C^3) once for the summary.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Integer

from robust_info import _validate
from robust_info._xla import compiled, explicit_meshes
from robust_info.information import _mean_divergences, _stacking, divergences
from robust_info.information import stats as stats_lib
from robust_info.information._compensated import Compensated
from robust_info.information.stats import InformationStats, information_stats

__all__ = [
  "InformationStats",
  "InformationSummary",
  "cckl",
  "information_stats",
  "label_information",
  "lautum_information",
  "mutual_information",
  "pointwise_information",
  "summarize",
]


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
    class_information: [C], `KL(m_a || pbar)`, the contribution of class a:
      `label_information` is its mean weighted by the class shares. NaN for
      classes without examples.
    conditional_information: [], `I(X;Y^|K)`; the chain rule
      `I(X;Y^) = I(K;Y^) + I(X;Y^|K)` holds by construction.
    variational_bound: [], `H(K) - cross_entropy`, a lower bound of `I(K;X)` for
      the population that the examples are drawn from (Barber and Agakov 2003):
      a bound on the information in the whole prediction, not only in a label
      drawn from it. May exceed `label_information`; may be negative.
    hard_label_information: [], `I(K;argmax_y p(y))` of the confusion matrix:
      the plug-in estimate, biased up for small samples.
    hard_label_information_corrected: [], the same with the bias correction of
      Miller and Madow (1955), `(|K| + |Y| - |K,Y| - 1) / 2N`, where |.| is the
      number of occupied cells; may be negative.
    cckl: [], mean of `KL(p_i || p_j)` over all ordered pairs with different
      labels (arXiv:1906.02494). NaN if there is no such pair.
    cckl_matrix: [C, C], mean of `KL(p_i || p_j)` over all i of class a (row)
      and j of class b (column); on the diagonal over all ordered pairs within
      the class, i = j included. NaN for classes without examples.

  With no examples every mean is NaN. Every float field is NaN if a counted row
  held a NaN or an invalid label (under `jax.jit`). Identity A: the mean of the
  matrix weighted by `n_a n_b` is `mutual_information + lautum_information`.
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
  class_information: jax.Array
  conditional_information: jax.Array
  variational_bound: jax.Array
  hard_label_information: jax.Array
  hard_label_information_corrected: jax.Array
  cckl: jax.Array
  cckl_matrix: jax.Array


@explicit_meshes.accepted(rows=False)
@_validate.promises_nan
@jax.jit
def summarize(stats: InformationStats) -> InformationSummary:
  """The information quantities of the examples behind `stats`.

  Args:
    stats: result of `information_stats`, or a sum of such results.

  Returns:
    `InformationSummary`; see there for the edge cases. Cost: O(C^3) time and
    memory up to 64 classes; beyond, O(P C^2) time for P classes with examples
    (nine seconds for P = C = 1000 on two CPU cores) and O(C^2) memory.

  Raises:
    TypeError: no `InformationStats`.
    ValueError: stacked statistics, which `jax.vmap(summarize)` takes.
  """
  _stacking.require_one_set("stats", stats)
  dtype = stats.prob_sum.high.dtype
  class_count = stats_lib.class_count(stats)
  count = jnp.sum(class_count, dtype=jnp.int32)
  total = count.astype(dtype)
  weight = class_count.astype(dtype) / total
  present = class_count > 0
  spread, dual_spread = _mean_spreads(stats)
  log_mean, log_geometric = _log_centres(stats)
  pbar = stats_lib.total(stats.prob_sum).over(jnp.maximum(total, 1))
  log_pbar = stats_lib.safe_log(pbar.value)

  means = stats_lib.arithmetic_means(stats)
  to_pbar = _mean_divergences.kl_of_means(
    means,
    jax.tree.map(lambda row: jnp.broadcast_to(row, means.high.shape), pbar),
  )
  from_pbar = divergences.kl_divergence(
    jnp.broadcast_to(log_pbar, log_geometric.shape), log_geometric
  )
  label_information = jnp.sum(stats_lib.times(weight, to_pbar))
  conditional = jnp.sum(stats_lib.times(weight, spread))
  lautum = jnp.sum(stats_lib.times(weight, from_pbar + dual_spread))

  matrix = (
    spread[:, None]
    + _mean_divergences.kl_of_all_pairs(log_mean, log_geometric, present)
    + dual_spread[None, :]
  )
  pairs = weight[:, None] * weight[None, :]
  cross_weight = jnp.where(jnp.eye(stats.num_classes, dtype=bool), 0.0, pairs)
  cckl = jnp.sum(stats_lib.times(cross_weight, matrix))

  label_entropy = _entropy_of_counts(class_count, dtype)
  hard, hard_corrected = _hard_information(stats.confusion, dtype)
  # log_prob_sum[a, a] sums log p_i(k_i) over class a.
  own = Compensated(*(jnp.diagonal(part) for part in stats.log_prob_sum))
  cross_entropy = -stats_lib.total(own).value / total
  is_valid = (count > 0) & ~jnp.any(jnp.isnan(stats.prob_sum.high))
  valid = jnp.where(is_valid, jnp.zeros((), dtype), jnp.nan)
  absent = jnp.where(present, valid, jnp.nan)
  return InformationSummary(
    count=count,
    class_count=class_count,
    accuracy=jnp.trace(stats.confusion).astype(dtype) / total + valid,
    cross_entropy=cross_entropy + valid,
    label_entropy=label_entropy + valid,
    prediction_entropy=divergences.entropy(log_pbar) + valid,
    mutual_information=label_information + conditional + valid,
    lautum_information=lautum + valid,
    label_information=label_information + valid,
    class_information=to_pbar + absent,
    conditional_information=conditional + valid,
    variational_bound=label_entropy - cross_entropy + valid,
    hard_label_information=hard + valid,
    hard_label_information_corrected=hard_corrected + valid,
    cckl=cckl / jnp.sum(cross_weight) + valid,
    cckl_matrix=matrix + absent[:, None] + absent[None, :],
  )


@explicit_meshes.accepted(rows=True)
def pointwise_information(
  logits: Float[ArrayLike, "N C"],
  *,
  stats: InformationStats | None = None,
  where: Bool[ArrayLike, " N"] | None = None,
) -> Float[Array, " N"]:
  """`KL(p_i || pbar)`: the contribution of each example to `I(X;Y^)`.

  Args:
    logits: [N, C].
    stats: statistics of the population whose mean prediction is pbar, for
      example a whole data set; `None` uses the rows themselves.
    where: [N] booleans; `False` rows do not count and get 0.

  Returns:
    [N], nats, at least 0. Without `stats` the mean over the counted rows is
    `mutual_information`. Cost O(N C).

  Raises:
    TypeError: `stats` are no `InformationStats`.
    ValueError: `stats` has another number of classes, or is stacked.
  """
  if stats is None:
    logits, where = stats_lib.check_unlabelled(logits, where)
    return _pointwise_information(logits, where, stats)
  logits = stats_lib.check_batch(logits)
  _stacking.require_one_set("stats", stats)
  if stats.num_classes != logits.shape[-1]:
    raise ValueError(
      f"Expected stats of the {logits.shape[-1]} classes of the logits, got "
      f"num_classes={stats.num_classes}."
    )
  where = _validate.mask("where", where, logits.shape[0])
  return _pointwise_information(logits, where, stats)


@compiled.once
def _pointwise_information(logits, where, stats):
  if stats is None:
    stats = stats_lib.unlabelled_stats(logits, where)
  prob_sum = stats_lib.total(stats.prob_sum).value
  # Divided before the logarithm, a small probability could round to 0.
  log_pbar = stats_lib.safe_log(prob_sum) - jnp.log(
    _count(stats, prob_sum.dtype)
  )
  where = _validate.filled_mask(where, logits.shape[0])
  logits = jnp.where(where[:, None], logits, 0.0)
  divergence = divergences.kl_divergence(
    logits, jnp.broadcast_to(log_pbar.astype(logits.dtype), logits.shape)
  )
  return jnp.where(where, divergence, 0.0)


@explicit_meshes.accepted(rows=False)
def mutual_information(
  logits: Float[ArrayLike, "N C"], *, where: Bool[ArrayLike, " N"] | None = None
) -> Float[Array, ""]:
  """`I(X;Y^) = H(pbar) - mean_i H(p_i) = mean_i KL(p_i || pbar)` of a batch.

  The mutual information between the index of the input, uniform over the N
  inputs, and a label drawn from its prediction. It equals the generalised
  Jensen-Shannon divergence.

  Args:
    logits: [N, C].
    where: [N] booleans; `False` rows do not count.

  Returns:
    [], nats, in [0, min(log N, log C)]. NaN if no row counts. A batch estimate
    is biased low for small N (bounded by log N): for a data set, merge
    `information_stats` instead of averaging over batches. Cost O(N C).
  """
  return _mutual_information(*stats_lib.check_unlabelled(logits, where))


@compiled.once
def _mutual_information(logits, where):
  stats = stats_lib.unlabelled_stats(logits, where)
  return _per_example(stats.spread, stats)


@explicit_meshes.accepted(rows=False)
def lautum_information(
  logits: Float[ArrayLike, "N C"], *, where: Bool[ArrayLike, " N"] | None = None
) -> Float[Array, ""]:
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
  return _lautum_information(*stats_lib.check_unlabelled(logits, where))


@explicit_meshes.accepted(rows=False)
def label_information(
  logits: Float[ArrayLike, "N C"],
  labels: Integer[ArrayLike, " N"],
  *,
  where: Bool[ArrayLike, " N"] | None = None,
) -> Float[Array, ""]:
  """`I(K;Y^)`: information of the predicted label about the true label.

  Computed from the joint `q(k, y) = (1/N) sum_i 1[k_i = k] p_i(y)`.

  Args:
    logits: [N, C].
    labels: [N] integers in [0, C).
    where: [N] booleans; `False` rows do not count.

  Returns:
    [], nats, in [0, I(X;Y^)]. NaN if no row counts. Cost O(N C + C^3).
  """
  return _label_information(*stats_lib.check_labelled(logits, labels, where))


@_validate.promises_nan
@compiled.once
def _label_information(logits, labels, where):
  stats = stats_lib.stats_of_groups(logits, labels, where, logits.shape[-1])
  return summarize(stats).label_information


@explicit_meshes.accepted(rows=False)
def cckl(
  logits: Float[ArrayLike, "N C"],
  labels: Integer[ArrayLike, " N"],
  *,
  where: Bool[ArrayLike, " N"] | None = None,
) -> Float[Array, ""]:
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
  return _cckl(*stats_lib.check_labelled(logits, labels, where))


@_validate.promises_nan
@compiled.once
def _cckl(logits, labels, where):
  stats = stats_lib.stats_of_groups(logits, labels, where, logits.shape[-1])
  return summarize(stats).cckl


@compiled.once
def _lautum_information(logits, where):
  stats = stats_lib.unlabelled_stats(logits, where)
  log_mean, log_geometric = _log_centres(stats)
  between = divergences.kl_divergence(log_mean, log_geometric)[0]
  return between + _per_example(stats.dual_spread, stats)


def _per_example(total: Compensated, stats: InformationStats) -> jax.Array:
  return total.value[0] / _count(stats, total.high.dtype)


def _count(stats, dtype) -> jax.Array:
  return jnp.sum(stats.confusion).astype(dtype)


def _mean_spreads(stats: InformationStats) -> tuple[jax.Array, jax.Array]:
  count = jnp.maximum(stats_lib.class_count(stats), 1)
  divisor = count.astype(stats.spread.high.dtype)
  return stats.spread.value / divisor, stats.dual_spread.value / divisor


def _log_centres(stats: InformationStats) -> tuple[jax.Array, jax.Array]:
  """Logits of the arithmetic and of the geometric mean prediction by group."""
  mean = stats_lib.arithmetic_means(stats).value
  return stats_lib.safe_log(mean), stats_lib.log_prob_means(stats).value


def _entropy_of_counts(counts, dtype):
  return divergences.entropy(stats_lib.safe_log(counts.astype(dtype)))


def _hard_information(confusion, dtype):
  """Plug-in `I(K;argmax)` of a table of counts, and Miller-Madow's."""
  joint = confusion.astype(dtype)
  by_label, by_guess = jnp.sum(joint, axis=1), jnp.sum(joint, axis=0)
  total = jnp.sum(joint)
  # sum of KL between rows and the column marginal: no cancellation.
  rows = divergences.kl_divergence(
    stats_lib.safe_log(jnp.where(by_label[:, None] == 0, 1.0, joint)),
    jnp.broadcast_to(stats_lib.safe_log(by_guess), joint.shape),
  )
  plug_in = jnp.sum(stats_lib.times(by_label / total, rows))
  occupied = [jnp.sum(x > 0).astype(dtype) for x in (by_label, by_guess, joint)]
  bias = (occupied[0] + occupied[1] - occupied[2] - 1) / (2 * total)
  return plug_in, plug_in + bias
