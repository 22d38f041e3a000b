"""Writes `golden_kfac.npz`: Fisher matrices by kfac-jax, a golden reference.

    python tests/support/golden_kfac.py

kfac-jax 0.0.8 does not run on the JAX of this package; 0.0.6 on JAX 0.4.30
(numpy<2, scipy<1.14, Python 3.11) made the file. kfac-jax multiplies with the
exact Fisher matrix of a network's parameters, which here are the inputs.
"""

import pathlib

import jax
import jax.numpy as jnp
import kfac_jax
import numpy as np

SIZE, HIDDEN, CLASSES, POINTS = 6, 9, 4, 5


def main() -> None:
  rng = np.random.default_rng(0)
  first = rng.normal(size=(SIZE, HIDDEN)).astype(np.float32)
  second = rng.normal(size=(HIDDEN, CLASSES)).astype(np.float32)
  x = rng.normal(size=(POINTS, SIZE)).astype(np.float32)

  def loss(row, batch):
    # The second argument tells kfac-jax the size of the batch it averages over.
    del batch
    logits = jnp.tanh(row[None] @ first) @ second
    labels = jnp.zeros((1,), jnp.int32)
    kfac_jax.register_softmax_cross_entropy_loss(logits, labels)
    return -jax.nn.log_softmax(logits)[0, 0]

  exact = kfac_jax.ImplicitExactCurvature(loss)
  one = jnp.zeros((1,))
  fisher = [
    [
      exact.multiply_fisher((jnp.asarray(row), one), direction)
      for direction in jnp.eye(SIZE)
    ]
    for row in x
  ]
  np.savez(
    pathlib.Path(__file__).with_suffix(".npz"),
    first=first,
    second=second,
    x=x,
    fisher=np.array(fisher),
  )


if __name__ == "__main__":
  main()
