"""Cross-entropy plus a penalty on the input-space Fisher information.

For the signature, the modes of the network and the units see the package.
"""

import dataclasses

import jax
import jax.numpy as jnp

from robust_info import _validate, fisher
from robust_info._xla import contractions, loops
from robust_info.fisher import products
from robust_info.objectives import _standard, base

QUANTITIES = ("trace", "frobenius")
ESTIMATORS = ("exact", "hutchinson", "label")


def fisher_regularised(
  network: base.Network,
  batch: base.Examples,
  key: jax.Array,
  *,
  progress: jax.Array | float = 1.0,
  coefficient: float = 0.1,
  quantity: str = "trace",
  estimator: str = "hutchinson",
  num_probes: int = 1,
  label_smoothing: float = 0.0,
) -> base.Outcome:
  """Cross-entropy at the images plus `coefficient` times tr F or ||F||_F.

  F is the Fisher information of the prediction with respect to the input, so
  this penalises the non-robust component at the samples directly, with no
  attack and no epsilon.

  Args:
    network: network, in training mode in the cross-entropy; in evaluation mode
      in the penalty, differentiated through.
    batch: batch of N examples.
    key: typed PRNG key; consumed by the probes; not used by `exact`.
    progress: not used.
    coefficient: weight of the penalty, in squared input units; with 0 the loss
      is that of `standard`.
    quantity: `trace` or `frobenius`.
    estimator: estimator of the penalty. Its cost comes on top of the forward
      pass of the cross-entropy, and each is then differentiated with respect to
      the parameters once more:

      - `exact`: one forward and C - 1 backward passes;
      - `hutchinson`: for the trace one JVP per probe, unbiased, by Var_p(J v)
        with random signs v; for the Frobenius norm one JVP and one VJP per
        probe, the root of an unbiased estimate of its square, so on average at
        most the norm;
      - `label`: for the trace only, one gradient per probe: |grad log p_k|^2 of
        a label k drawn from the prediction; unbiased in value and gradient.
    num_probes: number of probes of the last two estimators, averaged.
    label_smoothing: label smoothing of the cross-entropy.

  Returns:
    Loss [N] with the metrics of `standard` and `fisher_QUANTITY`.

  Raises:
    ValueError: the quantity or the estimator is unknown, or the estimator is
      `label` for the Frobenius norm.
  """
  _validate.one_of("quantity", quantity, QUANTITIES)
  _validate.one_of("estimator", estimator, ESTIMATORS)
  _validate.positive_int("num_probes", num_probes)
  if (quantity, estimator) == ("frobenius", "label"):
    raise ValueError(
      "Expected estimator 'exact' or 'hutchinson' for quantity='frobenius', "
      "got estimator='label'."
    )
  outcome = _standard.standard(
    network, batch, key, label_smoothing=label_smoothing
  )
  if estimator == "exact":
    norm = {"trace": fisher.fisher_trace, "frobenius": fisher.fisher_frobenius}
    penalty = norm[quantity](network.evaluate, batch.image, method="gram")
  else:
    probe = {
      ("trace", "hutchinson"): _trace_by_signs,
      ("trace", "label"): _trace_by_label,
      ("frobenius", "hutchinson"): _squared_frobenius_by_signs,
    }[quantity, estimator]

    def add(total: jax.Array, key: jax.Array) -> tuple[jax.Array, None]:
      return total + probe(network, batch.image, key), None

    total, _ = loops.scan(
      add,
      jnp.zeros(batch.image.shape[0], batch.image.dtype),
      jax.random.split(key, num_probes),
      length=num_probes,
      differentiable=True,
    )
    penalty = total / num_probes
    if quantity == "frobenius":
      penalty = base.safe_sqrt(penalty)
  return dataclasses.replace(
    outcome,
    loss=outcome.loss + coefficient * penalty,
    metrics={**outcome.metrics, f"fisher_{quantity}": penalty},
  )


def _trace_by_signs(
  network: base.Network, x: jax.Array, key: jax.Array
) -> jax.Array:
  v = jax.random.rademacher(key, x.shape, x.dtype)
  return products.fisher_quadratic(network.evaluate, x, v)


def _squared_frobenius_by_signs(
  network: base.Network, x: jax.Array, key: jax.Array
) -> jax.Array:
  v = jax.random.rademacher(key, x.shape, x.dtype)
  product = products.fisher_vector_product(network.evaluate, x, v)
  return jnp.sum(contractions.flat(product) ** 2, axis=-1)


def _trace_by_label(
  network: base.Network, x: jax.Array, key: jax.Array
) -> jax.Array:
  logits = jax.lax.stop_gradient(network.evaluate(x))
  labels = jax.random.categorical(key, logits)
  losses, gradient = base.input_gradient(network, x, labels)
  squares = jnp.sum(contractions.flat(gradient) ** 2, axis=-1)
  # The probability of the draw depends on the parameters too. This factor of
  # value 1, whose gradient is that of log p_k, makes the gradient unbiased.
  return squares * jnp.exp(jax.lax.stop_gradient(losses) - losses)
