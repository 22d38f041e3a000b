"""Cross-entropy on the unmodified images."""

import jax

from robust_info.objectives import base


def standard(
  network: base.Network,
  batch: base.Examples,
  key: jax.Array,
  *,
  progress: jax.Array | float = 1.0,
  label_smoothing: float = 0.0,
) -> base.Outcome:
  """Cross-entropy on the unmodified images.

  Cost: one forward pass.

  Args:
    network: network, in training mode.
    batch: batch of N examples.
    key: not used.
    progress: not used.
    label_smoothing: probability spread evenly over all C classes.

  Returns:
    Loss [N] with metrics `cross_entropy` and `accuracy`.
  """
  del key, progress
  logits, batch_stats = network.train(batch.image, batch.mask)
  plain = base.cross_entropy(logits, batch.label)
  return base.Outcome(
    loss=base.smoothed_cross_entropy(logits, batch.label, label_smoothing),
    metrics={
      "cross_entropy": plain,
      "accuracy": base.correct(logits, batch.label),
    },
    batch_stats=batch_stats,
  )
