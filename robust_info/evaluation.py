"""Measures one network on one split: everything a report is made of.

`Evaluator` compiles each measurement once; variables, data and epsilon are
arguments, so that checkpoints of one architecture share the programs. All
examples count: the ragged last batch is padded and masked. Batches are spread
over all devices, see `sharding`; results are NumPy arrays on every process.

Shapes: `N` examples, `C` classes, `P` pairs. Information in nats.
"""

import functools
import operator
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from robust_info import (
  _validate,
  accumulator,
  attacks,
  data,
  disentangle,
  divergences,
  fisher,
  pairs,
  predictions,
  sharding,
)
from robust_info import config as config_lib

ApplyFn = Callable[[Any, jax.Array], jax.Array]
# (done, total): called after each batch of a long measurement.
Tick = Callable[[int, int], None]
ATTACKS = ("pgd", "kl_pgd")
# Groups of the jackknife: the more, the surer its errors; the fewer, the less
# memory, O(G C^2).
_MAX_GROUPS = 50
_MIN_GROUPS = 20
_MANY_CLASSES = 100


class Evaluator:
  """Compiled measurements of the networks of one architecture on one split.

  Two evaluators with the same arguments give the same numbers. The randomness
  of an attack belongs to the example and that of a pair to the pair: another
  batch size changes results by rounding only. (Fisher norms are exact up to
  `fisher.AUTO_CLASSES` classes; the estimates beyond depend on the batches.)
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
    """Compiles nothing yet.

    Args:
      apply_fn: (variables, x [N, ...] in [0, 1]) -> logits [N, C], in
        evaluation mode.
      split: the examples.
      num_classes: C.
      settings: threat model, and sizes of batches and samples.
      seed: of attacks, pairs, and probes of the Fisher information.
    """
    self._apply = apply_fn
    self._split = split
    self._settings = settings
    self._pair_key, self._attack_key, self._probe_key = jax.random.split(
      jax.random.key(seed), 3
    )
    self._batch_size = sharding.round_up(min(settings.batch_size, len(split)))
    groups = _MAX_GROUPS if num_classes <= _MANY_CLASSES else _MIN_GROUPS
    self._num_groups = min(groups, len(split))
    # Every process has all rows of a result.
    jit = functools.partial(jax.jit, out_shardings=sharding.replicated())
    self._predict = jit(self._predict_batch)
    self._attack = jit(self._attack_batch, static_argnames="attack")
    self._fisher = jit(self._fisher_batch)
    self._local = jit(self._local_batch)
    self._path = jit(self._path_batch)
    self._portray = jit(self._portray_batch)
    self._merge = jit(jax.vmap(operator.add))

  @property
  def labels(self) -> np.ndarray:
    """[N], of the split."""
    return self._split.labels

  def predict(self, variables: Any) -> predictions.Predictions:
    """Clean predictions: one forward pass an example."""
    return self._collect(
      self._predict(variables, batch, ids)
      for _, ids, batch in self._batches(None)
    )

  def attack(
    self,
    variables: Any,
    *,
    epsilon: float,
    attack: str = "pgd",
    tick: Tick | None = None,
  ) -> predictions.Predictions:
    """Predictions at attacked inputs, in the ball that `settings` names.

    Args:
      variables: of the network.
      epsilon: radius of the ball; not compiled in.
      attack: "pgd" ascends the cross-entropy of the label, "kl_pgd" the
        divergence from the clean prediction; each example keeps the worst
        point on the way.
      tick: called with (done, total) examples.

    Returns:
      `Predictions` at the attacked inputs; at epsilon 0 those of `predict`.
      The clean point is not among the points of a larger ball: an example
      that is wrong there may be right here. Cost per example:
      `restarts * (num_steps + 1)` forward and `restarts * num_steps` backward
      passes.

    Raises:
      ValueError: an unknown attack, or epsilon below 0.
    """
    _validate.one_of("attack", attack, ATTACKS)
    _validate.at_least("epsilon", epsilon, 0)
    return self._collect(
      self._attack(
        variables, batch, ids, self._attack_key, epsilon, attack=attack
      )
      for _, ids, batch in self._batches(tick)
    )

  def fisher_norms(
    self, variables: Any, *, tick: Tick | None = None
  ) -> fisher.FisherNorms:
    """`fisher.fisher_norms` of every example, NumPy [N].

    Cost per example: one forward and C - 1 backward passes up to
    `fisher.AUTO_CLASSES` classes; for the estimates beyond, and their errors,
    see there.
    """
    found = []
    for start, _, batch in self._batches(tick):
      key = jax.random.fold_in(self._probe_key, start)
      found.append(jax.device_get(self._fisher(variables, batch, key)))
    return self._joined(found, len(self._split))

  def local_lens(self, variables: Any) -> disentangle.Components:
    """`disentangle_local` on the fixed cross-category pairs, NumPy [P]."""
    return self._on_pairs(self._local, variables)

  def path_lens(
    self, variables: Any, *, tick: Tick | None = None
  ) -> disentangle.Components:
    """`disentangle_path` on the same pairs, NumPy [P]."""
    return self._on_pairs(self._path, variables, tick)

  def pair_indices(self) -> tuple[np.ndarray, np.ndarray]:
    """The pairs of both lenses: a function of seed and labels only.

    Raises:
      ValueError: all examples have one label.
    """
    first, second = pairs.sample_cross_pairs(
      self._pair_key,
      self._split.labels,
      num_pairs=self._settings.num_pairs,
    )
    return np.asarray(first), np.asarray(second)

  def portraits(
    self, variables: Any, indices: np.ndarray
  ) -> dict[str, np.ndarray]:
    """What a figure of single examples shows.

    Args:
      variables: of the network.
      indices: int [M], examples of the split.

    Returns:
      `eigenvectors` (the top one of F) and `adversarial` (PGD at
      `settings.epsilon`), both [M, H, W, channels], and `probabilities` and
      `adversarial_probabilities`, both [M, C].
    """
    batch = data.Batch(
      image=self._split.images[indices],
      label=self._split.labels[indices],
      mask=np.ones(len(indices), bool),
    )
    found = self._portray(
      variables, batch, indices, self._attack_key, self._settings.epsilon
    )
    return jax.device_get(found)

  def _batches(
    self, tick: Tick | None
  ) -> Iterator[tuple[int, jax.Array, data.Batch]]:
    """First row number, row numbers and batch, in file order."""
    total, size = len(self._split), self._batch_size
    local = sharding.local_rows(size)
    batches = data.eval_batches(self._split, batch_size=size, rows=local)
    for number, batch in enumerate(batches):
      start = number * size
      ids = (start + np.arange(size))[local]
      yield start, *sharding.split_rows((ids, batch))
      if tick is not None:
        tick(min(start + size, total), total)

  def _collect(self, parts: Iterator[tuple]) -> predictions.Predictions:
    total, found = None, []
    for part, *rows in parts:
      total = part if total is None else self._merge(total, part)
      found.append(jax.device_get(rows))
    correct, confidence = self._joined(found, len(self._split))
    return predictions.Predictions(jax.device_get(total), correct, confidence)

  @staticmethod
  def _joined(blocks: list[Any], num_rows: int) -> Any:
    """The rows of all batches, without the padding at their end."""
    return jax.tree.map(lambda *rows: np.concatenate(rows)[:num_rows], *blocks)

  def _on_pairs(self, measure, variables, tick=None) -> disentangle.Components:
    """A lens over all pairs, in padded batches of one shape."""
    indices = self.pair_indices()
    num_pairs = self._settings.num_pairs
    size = sharding.round_up(min(self._settings.batch_size, num_pairs))
    found = []
    for start in range(0, num_pairs, size):
      rows = np.arange(start, start + size)[sharding.local_rows(size)]
      # Padding repeats the last pair; it is cut off below.
      rows = np.minimum(rows, num_pairs - 1)
      x, x_other = sharding.split_rows(
        [self._split.images[side[rows]] for side in indices]
      )
      found.append(jax.device_get(measure(variables, x, x_other)))
      if tick is not None:
        tick(min(start + size, num_pairs), num_pairs)
    return self._joined(found, num_pairs)

  def _logits_fn(self, variables):
    return lambda x: self._apply(variables, x)

  def _predict_batch(self, variables, batch, ids):
    logits = self._apply(variables, data.to_float(batch.image))
    return self._rows(logits, batch, ids)

  def _rows(self, logits, batch, ids):
    correct = jnp.argmax(logits, axis=-1) == batch.label
    confidence = jnp.max(jnp.exp(divergences.log_softmax(logits)), axis=-1)
    parts = accumulator.grouped_information_stats(
      logits,
      batch.label,
      ids % self._num_groups,
      num_groups=self._num_groups,
      where=batch.mask,
    )
    return parts, correct, confidence

  def _attack_batch(self, variables, batch, ids, key, epsilon, *, attack):
    result = self._run_attack(variables, batch, ids, key, epsilon, attack)
    return self._rows(result.logits, batch, ids)

  def _run_attack(self, variables, batch, ids, key, epsilon, attack):
    logits_fn = self._logits_fn(variables)
    x = data.to_float(batch.image)
    options = {
      "epsilon": epsilon,
      "num_steps": self._settings.num_steps,
      "norm": self._settings.norm,
      "restarts": self._settings.restarts,
      "keep": "worst",
      "where": batch.mask,
      "example_ids": ids,
    }
    if attack == "pgd":
      return attacks.pgd(logits_fn, x, batch.label, key, **options)
    return attacks.kl_pgd(logits_fn, x, key, **options)

  def _fisher_batch(self, variables, batch, key):
    return fisher.fisher_norms(
      self._logits_fn(variables), data.to_float(batch.image), key=key
    )

  def _portray_batch(self, variables, batch, ids, key, epsilon):
    logits_fn = self._logits_fn(variables)
    x = data.to_float(batch.image)
    _, vectors = fisher.fisher_eigenvectors(logits_fn, x, k=1)
    attacked = self._run_attack(variables, batch, ids, key, epsilon, "pgd")
    return {
      "eigenvectors": vectors[:, 0],
      "adversarial": attacked.x_adv,
      "probabilities": jax.nn.softmax(logits_fn(x)),
      "adversarial_probabilities": jax.nn.softmax(attacked.logits),
    }

  def _local_batch(self, variables, x, x_other):
    return disentangle.disentangle_local(
      self._logits_fn(variables), data.to_float(x), data.to_float(x_other)
    )

  def _path_batch(self, variables, x, x_other):
    return disentangle.disentangle_path(
      self._logits_fn(variables),
      data.to_float(x),
      data.to_float(x_other),
      num_nodes=self._settings.num_nodes,
    )


class Validator:
  """The metrics that training follows, on the validation split.

  Called as `validator(variables)`; a pure function. Accuracy, cross-entropy
  and information are exact over the split; attack and Fisher metrics use a
  fixed random subset of `settings.validation_examples`, both lenses a fixed
  set of pairs.
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
    """See `Evaluator`."""
    self._settings = settings
    self._whole = Evaluator(
      apply_fn, split, num_classes=num_classes, settings=settings, seed=seed
    )
    limit = settings.validation_examples
    if limit and limit < len(split):
      order = data.epoch_permutation(seed, 0, len(split))
      rows = np.sort(order[:limit])
      split = data.Split(split.images[rows], split.labels[rows])
    self._subset = Evaluator(
      apply_fn, split, num_classes=num_classes, settings=settings, seed=seed
    )

  def __call__(self, variables: Any) -> Mapping[str, float]:
    """The metrics of a network.

    Args:
      variables: what `apply_fn` takes.

    Returns:
      `accuracy`, `cross_entropy`, `cckl`, `mutual_information`,
      `lautum_information` and `label_information` over the whole split;
      `robust_accuracy` (PGD at `settings.epsilon`) and the mean
      `fisher_frobenius` over the subset; and the means of `local_total`,
      `local_non_robust`, `local_robust`, `path_total`, `path_non_robust` and
      `path_robust` over the pairs.
    """
    summary = self._whole.predict(variables).summary
    attacked = self._subset.attack(variables, epsilon=self._settings.epsilon)
    norms = self._subset.fisher_norms(variables)
    metrics = {
      name: float(getattr(summary, name))
      for name in (
        "accuracy",
        "cross_entropy",
        "cckl",
        "mutual_information",
        "lautum_information",
        "label_information",
      )
    }
    metrics["robust_accuracy"] = float(attacked.correct.mean())
    metrics["fisher_frobenius"] = float(norms.frobenius.mean(dtype=np.float64))
    for name, lens in (
      ("local", self._whole.local_lens(variables)),
      ("path", self._whole.path_lens(variables)),
    ):
      for part in ("total", "non_robust", "robust"):
        values = getattr(lens, part)
        metrics[f"{name}_{part}"] = float(values.mean(dtype=np.float64))
    return metrics
