"""Attack losses against hand-computed values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from robust_info.attacks import losses

LOGITS = np.float32([[3.0, 1.0, 0.5, -2.0], [0.0, 4.0, 2.0, 1.0]])
LABELS = np.array([0, 0], np.int32)
TARGETS = np.array([2, 1], np.int32)
margin, dlr, targeted_dlr, cross_entropy, ranked_classes = map(
  jax.jit,
  (
    losses.margin,
    losses.dlr,
    losses.targeted_dlr,
    losses.cross_entropy,
    losses.ranked_classes,
  ),
)


@jax.jit
def slope_to_third(logits):
  """Gradient of the loss towards the third class."""
  third = jnp.array([2, 2])
  return jax.grad(
    lambda z: jnp.sum(losses.targeted_dlr(z, jnp.argmax(z, -1), third))
  )(logits)


@jax.jit
def slopes(logits, labels, target):
  """Gradients of both losses of logit differences."""
  both = (
    losses.dlr,
    lambda z, labels: losses.targeted_dlr(z, labels, target),
  )
  return [
    jax.grad(lambda z, f=loss: jnp.sum(f(z, labels)))(logits) for loss in both
  ]


slope_of_cross_entropy = jax.jit(
  jax.grad(lambda z, labels: losses.cross_entropy(z, labels)[0])
)


def test_margin_and_dlr_by_hand():
  np.testing.assert_allclose(margin(LOGITS, LABELS), [-2, 4])
  np.testing.assert_allclose(dlr(LOGITS, LABELS), [-2 / 2.5, 4 / 3], rtol=1e-6)
  np.testing.assert_allclose(
    targeted_dlr(LOGITS, LABELS, TARGETS),
    [-2.5 / (3 - (0.5 - 2) / 2), 4 / (4 - (1 + 0) / 2)],
    rtol=1e-6,
  )


def test_dlr_ignores_shift_and_scale_of_the_logits():
  np.testing.assert_allclose(
    dlr(7 * LOGITS + 5, LABELS), dlr(LOGITS, LABELS), rtol=1e-5
  )


def test_three_classes_average_the_losers_and_two_use_the_margin():
  three, two = LOGITS[:, :3], LOGITS[:, :2]
  one = np.array([1, 1], np.int32)
  np.testing.assert_allclose(
    targeted_dlr(three, LABELS, one), [-2 / 2.25, 4 / 3], rtol=1e-6
  )
  assert np.any(slope_to_third(three)[0] != 0)
  np.testing.assert_allclose(dlr(two, LABELS), [-2, 4])
  np.testing.assert_allclose(targeted_dlr(two, LABELS, one), [-2, 4])
  for gradient in slopes(two, LABELS, one):
    assert np.all(gradient != 0)


def test_cross_entropy_is_minus_log_probability():
  logits = LOGITS.astype(np.float64)
  expected = -scipy.special.log_softmax(logits, axis=1)[np.arange(2), LABELS]
  np.testing.assert_allclose(cross_entropy(LOGITS, LABELS), expected, rtol=1e-6)


@pytest.mark.parametrize("gap", [5.0, 18.0, 40.0, 80.0])
def test_cross_entropy_gradient_survives_large_gaps(gap):
  logits = np.float32([[gap, 0.0, 0.0]])
  gradient = slope_of_cross_entropy(logits, LABELS[:1])[0]
  np.testing.assert_allclose(gradient[1], np.exp(-gap), rtol=3e-2)
  np.testing.assert_allclose(gradient[0], -2 * np.exp(-gap), rtol=3e-2)


def test_ranked_classes_leave_the_label_out():
  np.testing.assert_array_equal(
    ranked_classes(LOGITS, LABELS), [[1, 2, 3], [1, 2, 3]]
  )
