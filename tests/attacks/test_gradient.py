"""Properties of FGSM, PGD and KL-PGD."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robust_info import attacks, divergences
from robust_info.attacks import projections

NORMS = ("linf", "l2", "l1")
EPSILON = {"linf": 0.1, "l2": 0.4, "l1": 1.0}
KEY = jax.random.key(0)


@functools.partial(
  jax.jit,
  static_argnames=(
    "num_steps",
    "norm",
    "restarts",
    "loss",
    "random_start",
    "targeted",
    "keep",
    "momentum",
    "bounds",
  ),
)
def run(logits_fn, x, y, key, **options):
  return attacks.pgd(logits_fn, x, y, key, **{"num_steps": 5, **options})


def accuracy(result):
  return 1 - float(jnp.mean(result.success))


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("keep", ["last", "worst"])
def test_stays_in_ball_and_box(mlp, batch, norm, keep):
  x, y = batch
  epsilon = EPSILON[norm]
  result = run(
    mlp,
    x,
    y,
    KEY,
    epsilon=epsilon,
    step_size=epsilon,
    num_steps=3,
    norm=norm,
    keep=keep,
  )
  sizes = projections.norm(result.x_adv - x, norm)
  assert float(sizes.max()) <= epsilon + 1e-6
  assert float(sizes.max()) >= 0.9 * epsilon
  assert float(result.x_adv.min()) >= 0
  assert float(result.x_adv.max()) <= 1


@pytest.mark.parametrize("norm", NORMS)
def test_epsilon_zero_returns_the_input_bit_for_bit(mlp, batch, norm):
  x, y = batch
  combined = {"restarts": 3, "momentum": 0.9, "keep": "worst"}
  for options in ({}, combined):
    result = run(mlp, x, y, KEY, epsilon=0.0, norm=norm, num_steps=2, **options)
    np.testing.assert_array_equal(result.x_adv, x)
    clean_wrong = jnp.argmax(mlp(x), -1) != y
    np.testing.assert_array_equal(result.success, clean_wrong)


def test_result_is_evaluated_at_x_adv(mlp, batch):
  x, y = batch
  for keep in ("last", "worst"):
    result = run(
      mlp, x, y, KEY, epsilon=0.1, restarts=2, keep=keep, loss="margin"
    )
    logits = mlp(result.x_adv)
    np.testing.assert_allclose(result.logits, logits, atol=1e-5)
    np.testing.assert_array_equal(
      result.success, jnp.argmax(result.logits, -1) != y
    )
    expected = attacks.losses.margin(logits, y)
    np.testing.assert_allclose(result.loss, expected, atol=1e-5)


def test_single_step_is_the_exact_worst_case_of_a_linear_binary_margin():
  weights = jnp.array([[1.0, -0.5], [0.3, 2.0], [-1.0, 0.25]])
  x = jnp.full((1, 3), 0.5)
  y = jnp.array([0])
  difference = weights[:, 1] - weights[:, 0]
  clean = float((x @ difference)[0])
  for norm, dual in (("linf", 1), ("l2", 2)):
    result = attacks.fgsm(
      lambda v: v @ weights, x, y, epsilon=0.1, norm=norm, loss="margin"
    )
    gain = 0.1 * float(jnp.linalg.norm(difference, dual))
    assert float(result.loss[0]) == pytest.approx(clean + gain, abs=1e-6)


def test_masked_rows_are_unchanged_and_never_succeed(mlp, batch):
  x, y = batch
  where = jnp.arange(64) % 3 != 0
  garbage = jnp.where(where[:, None, None, None], x, 7 * x - 3)
  garbage = garbage.at[0].set(jnp.nan)
  labels = jnp.where(where, y, -7)
  options = {"epsilon": 0.2, "num_steps": 2, "restarts": 2}
  plain = run(mlp, x, y, KEY, **options)
  masked = run(mlp, garbage, labels, KEY, where=where, **options)
  np.testing.assert_array_equal(masked.x_adv[~where], garbage[~where])
  assert not bool(masked.success[~where].any())
  np.testing.assert_array_equal(masked.loss[~where], 0)
  np.testing.assert_allclose(
    masked.logits[~where], mlp(garbage)[~where], rtol=1e-5, atol=1e-5
  )
  assert bool(masked.valid.all())
  assert float(masked.robust_accuracy(where)) == pytest.approx(
    float(jnp.mean(~plain.success[where]))
  )
  np.testing.assert_array_equal(masked.x_adv[where], plain.x_adv[where])


def test_restarts_keep_the_worst_case_of_each_example(mlp, batch, rounding):
  x, y = batch
  options = {"epsilon": 0.05, "loss": "margin"}
  one = run(mlp, x, y, KEY, **options)
  many = run(mlp, x, y, KEY, restarts=4, **options)
  # A success is a positive margin. Batches of two sizes round differently.
  assert bool(jnp.all(many.loss >= one.loss - rounding))


def test_worst_iterate_is_never_better_for_the_model_than_the_last(
  mlp, batch, rounding
):
  x, y = batch
  options = {"epsilon": 0.2, "step_size": 0.2, "num_steps": 7}
  last = run(mlp, x, y, KEY, keep="last", **options)
  worst = run(mlp, x, y, KEY, keep="worst", **options)
  # Two programs: they round differently.
  barely = attacks.losses.margin(last.logits, y) < rounding
  assert bool(jnp.all(worst.success | ~last.success | barely))
  same = worst.success == last.success
  assert bool(jnp.all(worst.loss[same] >= last.loss[same] - rounding))
  assert bool(jnp.any(worst.loss > last.loss))


@pytest.mark.parametrize("norm", NORMS)
def test_accuracy_falls_as_epsilon_grows_to_nothing(mlp, batch, norm):
  x, y = batch
  accuracies = [
    accuracy(
      run(
        mlp, x, y, KEY, epsilon=factor * EPSILON[norm], num_steps=20, norm=norm
      )
    )
    for factor in (0, 0.25, 0.5, 1, 10)
  ]
  assert accuracies == sorted(accuracies, reverse=True)
  assert accuracies[0] == pytest.approx(7 / 8)
  assert accuracies[-1] <= 0.05


def test_iterating_beats_a_single_step(mlp, batch):
  x, y = batch
  single = attacks.fgsm(mlp, x, y, epsilon=0.1)
  iterated = run(mlp, x, y, KEY, epsilon=0.1, num_steps=20)
  assert accuracy(iterated) <= accuracy(single)


def test_targeted_reaches_the_target(mlp, batch):
  x, y = batch
  targets = (y + 2) % 5
  result = run(mlp, x, targets, KEY, epsilon=1.0, num_steps=20, targeted=True)
  np.testing.assert_array_equal(
    result.success, jnp.argmax(result.logits, -1) == targets
  )
  assert float(jnp.mean(result.success)) > 0.8
  assert float(jnp.mean(jnp.argmax(mlp(x), -1) == targets)) < 0.2


def test_rows_do_not_depend_on_the_batch_or_on_their_place_in_it(mlp, batch):
  x, y = batch
  ids = jnp.arange(64)
  options = {"epsilon": 0.1, "restarts": 2, "norm": "l2"}
  whole = run(mlp, x, y, KEY, example_ids=ids, **options)
  order = np.random.default_rng(3).permutation(64)
  shuffled = run(
    mlp, x[order], y[order], KEY, example_ids=ids[order], **options
  )
  np.testing.assert_allclose(shuffled.x_adv, whole.x_adv[order], atol=1e-5)
  part = run(mlp, x[16:32], y[16:32], KEY, example_ids=ids[16:32], **options)
  np.testing.assert_allclose(part.x_adv, whole.x_adv[16:32], atol=1e-5)


def test_the_same_key_repeats_and_another_differs(mlp, batch):
  x, y = batch
  first = run(mlp, x, y, KEY, epsilon=0.1, num_steps=1)
  again = run(mlp, x, y, KEY, epsilon=0.1, num_steps=1)
  other = run(mlp, x, y, jax.random.key(1), epsilon=0.1, num_steps=1)
  np.testing.assert_array_equal(first.x_adv, again.x_adv)
  assert bool(jnp.any(first.x_adv != other.x_adv))


def test_zero_gradients_are_counted_where_the_loss_saturates(mlp, batch):
  x, y = batch
  saturated = jax.tree_util.Partial(lambda fn, v: 1e4 * fn(v), mlp)
  right = jnp.argmax(mlp(x), -1) == y
  result = run(saturated, x, y, KEY, epsilon=0.01, random_start=False)
  assert float(jnp.mean(result.zero_gradients[right])) > 0.9
  for loss in ("margin", "dlr"):
    result = run(
      saturated, x, y, KEY, epsilon=0.01, random_start=False, loss=loss
    )
    assert not bool(result.zero_gradients[right].any())


def test_parameters_epsilon_and_data_do_not_recompile(mlp, batch):
  x, y = batch
  traces = []

  def counted(fn, v):
    traces.append(None)
    return fn(v)

  for scale in (1.0, 2.0):
    params = jax.tree.map(lambda leaf, s=scale: s * leaf, mlp)
    fn = jax.tree_util.Partial(counted, params)
    for epsilon in (0.1, 0.2):
      run(fn, x, y, KEY, epsilon=epsilon, step_size=epsilon / 7)
      before = len(traces)
  assert len(traces) == before
  run(fn, x + 0, y, jax.random.key(5), epsilon=0.3, step_size=0.1)
  assert len(traces) == before


def test_own_loss_is_ascended(mlp, batch):
  x, y = batch

  def first_logit(logits, labels):
    del labels
    return logits[:, 0]

  result = run(mlp, x, y, KEY, epsilon=0.1, num_steps=10, loss=first_logit)
  assert bool(jnp.all(result.logits[:, 0] >= mlp(x)[:, 0]))


def test_expectation_over_transformation_averages_the_gradient():
  weights = jnp.array([[1.0, -1.0], [1.0, -1.0]])

  def noisy(x, key):
    # The noise flips the gradient's sign in a quarter of the draws.
    flip = jax.random.bernoulli(key, 0.25)
    return jnp.where(flip, -1, 1) * (x @ weights)

  x = jnp.full((4, 2), 0.5)
  y = jnp.zeros((4,), int)
  result = attacks.pgd(
    noisy,
    x,
    y,
    KEY,
    epsilon=0.1,
    step_size=0.1,
    num_steps=1,
    random_start=False,
    loss="margin",
    eot_samples=64,
  )
  np.testing.assert_allclose(result.x_adv, x - 0.1, atol=1e-6)


def test_float64_in_gives_float64_out(x64, batch):
  x, y = (jnp.asarray(np.asarray(a)) for a in batch)
  x = x.astype(jnp.float64)
  weights = jnp.ones((16, 5)) * jnp.arange(5.0)[None]
  result = attacks.pgd(
    lambda v: v.reshape(len(v), -1) @ weights,
    x,
    y,
    KEY,
    epsilon=0.1,
    num_steps=2,
  )
  assert result.x_adv.dtype == jnp.float64
  assert result.loss.dtype == jnp.float64


def test_half_precision_input_is_attacked_in_float32(mlp, batch):
  x, y = batch
  result = run(mlp, x.astype(jnp.bfloat16), y, KEY, epsilon=0.1)
  assert result.x_adv.dtype == jnp.float32


@pytest.mark.parametrize("norm", NORMS)
def test_kl_pgd_raises_the_divergence_from_the_clean_prediction(
  mlp, batch, norm
):
  x, _ = batch
  attack = jax.jit(
    attacks.kl_pgd, static_argnames=("num_steps", "norm", "anchor")
  )
  options = {"num_steps": 3, "norm": norm}
  result = attack(mlp, x, KEY, epsilon=EPSILON[norm], **options)
  expected = divergences.kl_divergence(mlp(x), mlp(result.x_adv))
  np.testing.assert_allclose(result.loss, expected, rtol=1e-4)
  random = attack(mlp, x, KEY, epsilon=EPSILON[norm], step_size=0.0, **options)
  assert bool(jnp.all(result.loss > random.loss))
  np.testing.assert_array_equal(
    result.success, jnp.argmax(mlp(result.x_adv), -1) != jnp.argmax(mlp(x), -1)
  )
  assert not bool(result.zero_gradients.any())
  zero = attack(mlp, x, KEY, epsilon=0.0, **options)
  np.testing.assert_array_equal(zero.x_adv, x)


def test_kl_anchored_at_its_start_measures_from_there(mlp, batch):
  x, _ = batch
  still = attacks.kl_pgd(
    mlp, x, KEY, epsilon=0.1, step_size=0.0, num_steps=1, anchor="start"
  )
  np.testing.assert_allclose(still.loss, 0, atol=1e-6)


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"epsilon": -1}, "epsilon >= 0"),
    ({"epsilon": np.nan}, "epsilon >= 0 and finite"),
    ({"epsilon": np.ones(4)}, r"epsilon to be a number or of shape \(64,\)"),
    ({"epsilon": np.ones((64, 1))}, r"one per example, got shape \(64, 1\)"),
    ({"step_size": np.ones(1)}, "step_size to be a number or of shape"),
    ({"step_size": np.r_[-1, np.ones(63)]}, r"step_size\[0\]=-1"),
    ({"x": jnp.full((64, 3), jnp.inf), "bounds": None}, "x to be finite"),
    ({"norm": "l3"}, "norm to be one of"),
    ({"loss": "hinge"}, "loss to be one of"),
    ({"num_steps": 0}, "num_steps >= 1"),
    ({"num_steps": 2.0}, "num_steps to be a Python int"),
    ({"restarts": 2, "random_start": False}, "restarts=1"),
    ({"bounds": (1, 0)}, "low < high"),
    ({"keep": "best"}, "keep to be one of"),
    ({"eot_samples": 0}, "eot_samples >= 1"),
    ({"key": None}, "key to be a PRNG key"),
    ({"x": jnp.zeros((64, 16), jnp.uint8)}, "/ 255"),
    ({"x": 255 * jnp.ones((64, 4, 4, 1))}, "x in bounds"),
    ({"y": jnp.zeros((64,))}, "integer y"),
    ({"y": jnp.full((64,), 5)}, r"y\[0\]=5"),
    ({"y": jnp.zeros((3,), int)}, "one label an example"),
    ({"where": jnp.ones((64,))}, "where to be a boolean mask"),
    ({"example_ids": jnp.zeros((64,))}, "integer example_ids"),
    ({"logits_fn": lambda x: jnp.zeros((64,))}, "logits of shape"),
    ({"logits_fn": 3}, "logits_fn to be a function"),
  ],
)
def test_bad_arguments_give_one_clear_line(mlp, batch, change, message):
  x, y = batch
  arguments = {"logits_fn": mlp, "x": x, "y": y, "key": KEY, "epsilon": 0.1}
  with pytest.raises((ValueError, TypeError), match=message) as caught:
    attacks.pgd(**{**arguments, **change})
  assert "\n" not in str(caught.value)
