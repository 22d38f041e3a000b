"""Attack losses against hand-computed values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robust_info.attacks import losses

LOGITS = jnp.array([[3.0, 1.0, 0.5, -2.0], [0.0, 4.0, 2.0, 1.0]])
LABELS = jnp.array([0, 0])
TARGETS = jnp.array([2, 1])


def test_margin_and_dlr_by_hand():
  np.testing.assert_allclose(losses.margin(LOGITS, LABELS), [-2, 4])
  np.testing.assert_allclose(
    losses.dlr(LOGITS, LABELS), [-2 / 2.5, 4 / 3], rtol=1e-6
  )
  np.testing.assert_allclose(
    losses.targeted_dlr(LOGITS, LABELS, TARGETS),
    [-2.5 / (3 - (0.5 - 2) / 2), 4 / (4 - (1 + 0) / 2)],
    rtol=1e-6,
  )


def test_dlr_ignores_shift_and_scale_of_the_logits():
  np.testing.assert_allclose(
    losses.dlr(7 * LOGITS + 5, LABELS), losses.dlr(LOGITS, LABELS), rtol=1e-5
  )


def test_three_classes_average_the_losers_and_two_use_the_margin():
  three, two = LOGITS[:, :3], LOGITS[:, :2]
  one = jnp.array([1, 1])
  np.testing.assert_allclose(
    losses.targeted_dlr(three, LABELS, one), [-2 / 2.25, 4 / 3], rtol=1e-6
  )
  third = jnp.array([2, 2])
  slope = jax.grad(
    lambda z: jnp.sum(losses.targeted_dlr(z, jnp.argmax(z, -1), third))
  )(three)
  assert bool(jnp.any(slope[0] != 0))
  np.testing.assert_allclose(losses.dlr(two, LABELS), [-2, 4])
  np.testing.assert_allclose(losses.targeted_dlr(two, LABELS, one), [-2, 4])
  for loss in (losses.dlr, lambda z, y: losses.targeted_dlr(z, y, one)):
    gradient = jax.grad(lambda z, f=loss: jnp.sum(f(z, LABELS)))(two)
    assert bool(jnp.all(gradient != 0))


def test_cross_entropy_is_minus_log_probability():
  expected = -jax.nn.log_softmax(LOGITS)[jnp.arange(2), LABELS]
  np.testing.assert_allclose(
    losses.cross_entropy(LOGITS, LABELS), expected, rtol=1e-6
  )


@pytest.mark.parametrize("gap", [5.0, 18.0, 40.0, 80.0])
def test_cross_entropy_gradient_survives_large_gaps(gap):
  logits = jnp.array([[gap, 0.0, 0.0]])
  labels = jnp.array([0])
  gradient = jax.grad(lambda z: losses.cross_entropy(z, labels)[0])(logits)[0]
  np.testing.assert_allclose(gradient[1], np.exp(-gap), rtol=3e-2)
  np.testing.assert_allclose(gradient[0], -2 * np.exp(-gap), rtol=3e-2)


def test_ranked_classes_leave_the_label_out():
  np.testing.assert_array_equal(
    losses.ranked_classes(LOGITS, LABELS), [[1, 2, 3], [1, 2, 3]]
  )
