"""Statistics of several sets of examples at once: groups and devices.

Shapes: `N` examples, `C` classes, `G` groups of examples.
"""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Bool, Float, Integer

from robust_info import _validate
from robust_info._xla import compiled, explicit_meshes
from robust_info.information import _stacking
from robust_info.information import stats as stats_lib
from robust_info.information.stats import InformationStats


@explicit_meshes.accepted(rows=False)
def grouped_information_stats(
  logits: Float[ArrayLike, "N C"],
  labels: Integer[ArrayLike, " N"],
  groups: Integer[ArrayLike, " N"],
  *,
  num_groups: int,
  where: Bool[ArrayLike, " N"] | None = None,
) -> InformationStats:
  """`information_stats` of every group of examples, in one pass [ours].

  The result is the input of `jackknife`; `merge_groups` gives the statistics of
  all examples.

  Args:
    logits: [N, C], any float dtype.
    labels: [N] integers in [0, C).
    groups: [N] integers in [0, G), the group of each example.
    num_groups: number of groups, G.
    where: [N] booleans, as for `information_stats`.

  Returns:
    `InformationStats` with a leading axis [G, ...] on every field. Under
    `jax.jit` a label or group out of range makes every float result NaN, of all
    groups. Stacked
    statistics of other examples in the same groups merge with
    `jax.vmap(operator.add)`. Cost: that of `information_stats`, and O(G C^2)
    for every block of rows; a block has at least 4096 and 4 G C rows.

  Raises:
    TypeError: labels or groups that are not integers.
    ValueError: wrong shapes, or labels or groups out of range.
  """
  _validate.positive_int("num_groups", num_groups)
  logits, labels, where = stats_lib.check_labelled(logits, labels, where)
  groups = _validate.labels("groups", groups, logits.shape[0], where)
  _validate.labels_in_range(
    "groups", groups, num_groups, where, meaning="num_groups"
  )
  return _grouped(logits, labels, groups, where, num_groups)


@compiled.once
def _grouped(logits, labels, groups, where, num_groups):
  num_classes = logits.shape[-1]
  # One row of statistics for each group and class; what is out of range must
  # not land in another.
  in_range = (labels >= 0) & (labels < num_classes)
  in_range &= (groups >= 0) & (groups < num_groups)
  cells = jnp.where(in_range, groups * num_classes + labels, -1)
  stats = stats_lib.stats_of_groups(
    logits, cells, where, num_groups * num_classes
  )
  # A bad row belongs to no group: NaN in the one that it lands in would leave
  # the others looking complete.
  bad = _validate.filled_mask(where, logits.shape[0]) & ~in_range
  complete = ~jnp.any(bad)

  def by_group(rows):
    rows = rows.reshape(num_groups, num_classes, *rows.shape[1:])
    if not jnp.issubdtype(rows.dtype, jnp.floating):
      return rows
    return jnp.where(complete, rows, jnp.nan)

  return jax.tree.map(by_group, stats)


def split_groups(stacked: InformationStats) -> list[InformationStats]:
  """Splits fields [G, ...] into a list of G statistics."""
  _stacking.require_groups("parts", stacked)
  stacked = jax.device_get(stacked)
  return [
    jax.tree.map(lambda leaf, g=g: leaf[g], stacked)
    for g in range(len(stacked.confusion))
  ]


@explicit_meshes.accepted(rows=False)
@compiled.once
def merge_groups(stacked: InformationStats) -> InformationStats:
  """The union of G groups: fields [G, ...] to fields [...].

  Raises:
    TypeError: no `InformationStats`.
    ValueError: statistics of one set of examples.
  """
  _stacking.require_groups("stacked", stacked)
  start = jax.tree.map(lambda leaf: jnp.zeros_like(leaf[0]), stacked)
  return jax.lax.scan(lambda total, part: (total + part, None), start, stacked)[
    0
  ]


def merge_across(stats: InformationStats, axis_name: str) -> InformationStats:
  """The union over a mesh axis, for use inside `jax.shard_map`.

  Args:
    stats: statistics of the examples of each device.
    axis_name: name of the mesh axis.

  Returns:
    `InformationStats` of the examples of all devices, identical on every device
    bit for bit: return it from `shard_map` with `out_specs=PartitionSpec()`.
    Cost: one all-gather of O(C^2) and as many merges as devices.
  """
  mesh = jax.sharding.get_abstract_mesh()
  if axis_name not in getattr(mesh, "manual_axes", ()):
    # An axis of `jax.vmap` or `jax.pmap`: types do not track devices there.
    return merge_groups(jax.lax.all_gather(stats, axis_name))
  return merge_groups(jax.lax.all_gather(stats, axis_name, to="invarying"))
