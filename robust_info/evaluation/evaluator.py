"""Measures one network on one split: everything a report is made of.

`Evaluator` compiles each measurement once; variables, data and epsilon are
arguments, so that checkpoints of one architecture share the programs. All
examples count: the ragged last batch is padded and masked. Batches are spread
over all devices, see `sharding`; results are NumPy arrays on every process.

Shapes: `N` examples, `C` classes, `P` pairs. Information in nats.
"""

import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import numpy as np

from robust_info import _validate, attacks, data, fisher
from robust_info import config as config_lib
from robust_info.evaluation import predictions
from robust_info.lenses import components, pairs, path
from robust_info.lenses import local as local_lib
from robust_info.runtime import sharding

ApplyFn = Callable[[Any, jax.Array], jax.Array]
# (done, total): called after each batch of a long measurement.
Tick = Callable[..., None]
# Examples x and x' of pairs, both int [P].
Pairs = tuple[np.ndarray, np.ndarray]
# On the label, and on the divergence from the clean prediction.
ATTACKS = ("pgd", "kl_pgd")
# Segments of the coarse path lens, which follows the lens closely.
COARSE_NODES = 8


class Evaluator:
  """Compiled measurements of the networks of one architecture on one split.

  `split`, `settings` and `seed` are what it was made with.

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
    self.split = split
    self.settings = settings
    self.seed = seed
    (
      self._pair_key,
      self._attack_key,
      self._probe_key,
      self._coarse_pair_key,
    ) = jax.random.split(jax.random.key(seed), 4)
    self._batch_size = sharding.round_up(min(settings.batch_size, len(split)))
    # Every process has all rows of a result.
    jit = functools.partial(jax.jit, out_shardings=sharding.replicated())
    self._forward = jit(self._forward_batch)
    self._attack = jit(
      self._attack_batch, static_argnames=("attack", "num_steps")
    )
    self._tally = predictions.Tally(
      split.labels, num_classes, batch_size=self._batch_size
    )
    self._fisher = jit(self._fisher_batch)
    self._local = jit(self._local_batch)
    self._path = jit(self._path_batch)
    self._coarse_path = jit(self._coarse_path_batch)
    self._portray = jit(self._portray_batch)

  @property
  def labels(self) -> np.ndarray:
    """[N], of the split."""
    return self.split.labels

  def logits_fn(self, variables: Any) -> jax.tree_util.Partial:
    """The network as a function of float inputs, not compiled.

    The same function for all `variables`, which are leaves: programs compiled
    for one network serve all others.
    """
    return jax.tree_util.Partial(self._apply, variables)

  def predict(self, variables: Any) -> predictions.Predictions:
    """Clean predictions: one forward pass an example."""
    return self._tally(self._forwarded(variables))

  def logits(self, variables: Any) -> np.ndarray:
    """Clean logits [N, C], in memory."""
    return self._joined(self._forwarded(variables), len(self.split))

  def tally(self, logits: np.ndarray) -> predictions.Predictions:
    """`Predictions` of logits [N, C] of the examples, whatever the inputs."""
    size = self._batch_size
    return self._tally(
      logits[start : start + size] for start in range(0, len(logits), size)
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
    return self._tally(self._attacked(variables, epsilon, attack, None, tick))

  def attacked_logits(
    self,
    variables: Any,
    *,
    epsilon: float,
    attack: str = "pgd",
    num_steps: int | None = None,
  ) -> np.ndarray:
    """Logits [N, C] at the inputs of `attack`, in memory.

    Args:
      variables: of the network.
      epsilon: radius of the ball, >= 0; not compiled in.
      attack: as in `attack`.
      num_steps: instead of those of `settings`.
    """
    found = self._attacked(variables, epsilon, attack, num_steps, None)
    return self._joined(found, len(self.split))

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
    return self._joined(found, len(self.split))

  def local_lens(
    self,
    variables: Any,
    pairs: Pairs | None = None,
    *,
    tick: Tick | None = None,
  ) -> components.Components:
    """`disentangle_local`, by default on `pair_indices`, NumPy [P]."""
    pairs = self.pair_indices() if pairs is None else pairs
    return self._on_pairs(self._local, variables, pairs, tick)

  def path_lens(
    self, variables: Any, *, tick: Tick | None = None
  ) -> components.Components:
    """`disentangle_path`, extrapolated, on `pair_indices`, NumPy [P].

    With `settings.num_nodes` segments, rounded up to a multiple of 4.
    """
    return self._on_pairs(self._path, variables, self.pair_indices(), tick)

  def coarse_path_lens(
    self, variables: Any, pairs: Pairs, *, tick: Tick | None = None
  ) -> components.Components:
    """`disentangle_path` with `COARSE_NODES` chords, NumPy [P]."""
    return self._on_pairs(self._coarse_path, variables, pairs, tick)

  def pair_indices(self) -> Pairs:
    """The pairs of the lenses: a function of seed and labels only.

    Raises:
      ValueError: all examples have one label.
    """
    return self._sample_pairs(self._pair_key, self.settings.num_pairs)

  def coarse_pair_indices(self) -> Pairs:
    """More pairs, for what costs little: others than those of the lenses."""
    return self._sample_pairs(
      self._coarse_pair_key, self.settings.num_coarse_pairs
    )

  def _sample_pairs(self, key: jax.Array, num_pairs: int) -> Pairs:
    first, second = pairs.sample_cross_pairs(
      key, self.split.labels, num_pairs=num_pairs
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
      image=self.split.images[indices],
      label=self.split.labels[indices],
      mask=np.ones(len(indices), bool),
    )
    found = self._portray(
      variables, batch, indices, self._attack_key, self.settings.epsilon
    )
    return jax.device_get(found)

  def _batches(
    self, tick: Tick | None
  ) -> Iterator[tuple[int, jax.Array, data.Batch]]:
    """First row number, row numbers and batch, in file order."""
    total, size = len(self.split), self._batch_size
    local = sharding.local_rows(size)
    batches = data.eval_batches(self.split, batch_size=size, rows=local)
    for number, batch in enumerate(batches):
      start = number * size
      ids = (start + np.arange(size))[local]
      yield start, *sharding.split_rows((ids, batch))
      if tick is not None:
        tick(min(start + size, total), total)

  def _forwarded(self, variables: Any) -> Iterator[np.ndarray]:
    """Logits of each batch, padding included."""
    for _, _, batch in self._batches(None):
      yield jax.device_get(self._forward(variables, batch))

  def _attacked(
    self,
    variables: Any,
    epsilon: float,
    attack: str,
    num_steps: int | None,
    tick: Tick | None,
  ) -> Iterator[np.ndarray]:
    """The same at attacked inputs."""
    _validate.one_of("attack", attack, ATTACKS)
    _validate.at_least("epsilon", epsilon, 0)
    for _, ids, batch in self._batches(tick):
      logits = self._attack(
        variables,
        batch,
        ids,
        self._attack_key,
        epsilon,
        attack=attack,
        num_steps=num_steps or self.settings.num_steps,
      )
      yield jax.device_get(logits)

  @staticmethod
  def _joined(blocks: Iterable[Any], num_rows: int) -> Any:
    """The rows of all batches, without the padding at their end."""
    return jax.tree.map(lambda *rows: np.concatenate(rows)[:num_rows], *blocks)

  def _on_pairs(
    self, measure, variables, indices, tick
  ) -> components.Components:
    """A lens over pairs, in padded batches of one shape."""
    num_pairs = len(indices[0])
    size = sharding.round_up(min(self.settings.batch_size, num_pairs))
    found = []
    for start in range(0, num_pairs, size):
      rows = np.arange(start, start + size)[sharding.local_rows(size)]
      # Padding repeats the last pair; it is cut off below.
      rows = np.minimum(rows, num_pairs - 1)
      x, x_other = sharding.split_rows(
        [self.split.images[side[rows]] for side in indices]
      )
      found.append(jax.device_get(measure(variables, x, x_other)))
      if tick is not None:
        tick(min(start + size, num_pairs), num_pairs)
    return self._joined(found, num_pairs)

  def _forward_batch(self, variables, batch):
    return self._apply(variables, data.to_float(batch.image))

  def _attack_batch(
    self, variables, batch, ids, key, epsilon, *, attack, num_steps
  ):
    result = self._run_attack(
      variables, batch, ids, key, epsilon, attack, num_steps
    )
    return result.logits

  def _run_attack(self, variables, batch, ids, key, epsilon, attack, num_steps):
    logits_fn = self.logits_fn(variables)
    x = data.to_float(batch.image)
    options = {
      "epsilon": epsilon,
      "num_steps": num_steps,
      "norm": self.settings.norm,
      "restarts": self.settings.restarts,
      "keep": "worst",
      "where": batch.mask,
      "example_ids": ids,
    }
    if attack == "pgd":
      return attacks.pgd(logits_fn, x, batch.label, key, **options)
    return attacks.kl_pgd(logits_fn, x, key, **options)

  def _fisher_batch(self, variables, batch, key):
    return fisher.fisher_norms(
      self.logits_fn(variables), data.to_float(batch.image), key=key
    )

  def _portray_batch(self, variables, batch, ids, key, epsilon):
    logits_fn = self.logits_fn(variables)
    x = data.to_float(batch.image)
    _, vectors = fisher.fisher_eigenvectors(logits_fn, x, k=1)
    attacked = self._run_attack(
      variables, batch, ids, key, epsilon, "pgd", self.settings.num_steps
    )
    return {
      "eigenvectors": vectors[:, 0],
      "adversarial": attacked.x_adv,
      "probabilities": jax.nn.softmax(logits_fn(x)),
      "adversarial_probabilities": jax.nn.softmax(attacked.logits),
    }

  def _local_batch(self, variables, x, x_other):
    return local_lib.disentangle_local(
      self.logits_fn(variables), data.to_float(x), data.to_float(x_other)
    )

  def _path_batch(self, variables, x, x_other):
    return path.disentangle_path(
      self.logits_fn(variables),
      data.to_float(x),
      data.to_float(x_other),
      num_nodes=4 * -(-self.settings.num_nodes // 4),
      method="extrapolated",
    )

  def _coarse_path_batch(self, variables, x, x_other):
    return path.disentangle_path(
      self.logits_fn(variables),
      data.to_float(x),
      data.to_float(x_other),
      num_nodes=COARSE_NODES,
    )


def random_rows(split: data.Split, limit: int, seed: int) -> np.ndarray:
  """At most `limit` examples of a split, chosen by the seed alone, sorted."""
  return np.sort(data.epoch_permutation(seed, 0, len(split))[:limit])
