"""Properties of FGSM, PGD and KL-PGD."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from robust_info import attacks
from robust_info.attacks import projections
from robust_info.information import divergences

NORMS = ("linf", "l2", "l1")
EPSILON = {"linf": 0.1, "l2": 0.4, "l1": 1.0}
KEY = jax.random.key(0)
NUM_STEPS = 20
# Two families of programs serve most tests: this one, and `COMBINED`.
PLAIN = {
  "num_steps": NUM_STEPS,
  "norm": "linf",
  "restarts": 1,
  "loss": "cross_entropy",
  "random_start": True,
  "targeted": False,
  "keep": "last",
  "momentum": 0.0,
}
COMBINED = {
  "linf": {"restarts": 2, "keep": "worst", "momentum": 0.9},
  "l2": {"restarts": 2, "keep": "worst"},
  "l1": {"restarts": 2, "keep": "worst", "momentum": 0.9},
}
# Two l2 settings that differ only in which iterate they keep.
LAST = {"norm": "l2", "restarts": 2}
WORST = {"norm": "l2", **COMBINED["l2"]}

pgd = jax.jit(attacks.pgd, static_argnames=(*PLAIN, "eot_samples"))
fgsm = jax.jit(attacks.fgsm, static_argnames=("norm", "loss"))
kl_pgd = jax.jit(
  attacks.kl_pgd, static_argnames=("num_steps", "norm", "anchor")
)


def run(logits_fn, x, y, key=KEY, *, epsilon, **options):
  """PGD, one program per set of static options; NumPy arrays."""
  arrays = {
    "step_size": 2.5 * epsilon / NUM_STEPS,
    "where": np.ones(len(x), bool),
    "example_ids": np.arange(len(x)),
  }
  return jax.device_get(
    pgd(logits_fn, x, y, key, epsilon=epsilon, **{**arrays, **PLAIN, **options})
  )


def accuracy(result):
  return 1 - np.mean(result.success)


def classes(logits):
  return np.argmax(np.asarray(logits), -1)


def assert_no_better_for_the_model(result, other, y, rounding):
  """Row by row: a success beats every failure, then the higher loss."""
  # The results come from two programs, which round differently.
  barely = np.asarray(attacks.losses.margin(other.logits, y)) < rounding
  assert np.all(result.success | ~other.success | barely)
  same = result.success == other.success
  assert np.all(result.loss[same] >= other.loss[same] - rounding)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("combined", [False, True])
def test_stays_in_ball_and_box(mlp, batch, norm, combined):
  x, y = batch
  options = {"norm": norm, **(COMBINED[norm] if combined else {})}
  epsilon = EPSILON[norm]
  result = run(mlp, x, y, epsilon=epsilon, step_size=epsilon, **options)
  sizes = projections.norm(result.x_adv - x, norm)
  assert float(sizes.max()) <= epsilon + 1e-6
  assert float(sizes.max()) >= 0.9 * epsilon
  assert result.x_adv.min() >= 0
  assert result.x_adv.max() <= 1
  # With epsilon 0 the result is the input bit for bit.
  result = run(mlp, x, y, epsilon=0.0, **options)
  np.testing.assert_array_equal(result.x_adv, x)
  np.testing.assert_array_equal(result.success, classes(mlp(x)) != y)


@pytest.mark.parametrize("options", [LAST, WORST], ids=["last", "worst"])
def test_result_is_evaluated_at_x_adv(mlp, batch, options):
  x, y = batch
  result = run(mlp, x, y, epsilon=0.4, **options)
  logits = mlp(result.x_adv)
  np.testing.assert_allclose(result.logits, logits, atol=1e-5)
  np.testing.assert_array_equal(result.success, classes(result.logits) != y)
  log_p = scipy.special.log_softmax(np.asarray(logits, np.float64), axis=1)
  expected = -log_p[np.arange(len(x)), y]
  np.testing.assert_allclose(result.loss, expected, atol=1e-5)


def test_single_step_is_the_exact_worst_case_of_a_linear_binary_margin():
  weights = np.float32([[1.0, -0.5], [0.3, 2.0], [-1.0, 0.25]])
  x = np.full((1, 3), 0.5, np.float32)
  difference = weights[:, 1] - weights[:, 0]
  clean = (x @ difference)[0]
  network = jax.tree_util.Partial(lambda w, v: v @ w, weights)
  for norm, dual in (("linf", 1), ("l2", 2)):
    result = fgsm(
      network, x, np.zeros(1, int), epsilon=0.1, norm=norm, loss="margin"
    )
    gain = 0.1 * np.linalg.norm(difference, dual)
    assert float(result.loss[0]) == pytest.approx(clean + gain, abs=1e-6)


def test_masked_rows_are_unchanged_and_never_succeed(mlp, batch):
  x, y = batch
  where = np.arange(64) % 3 != 0
  garbage = np.where(where[:, None, None, None], x, 7 * x - 3)
  garbage[0] = np.nan
  labels = np.where(where, y, -7)
  plain = run(mlp, x, y, epsilon=0.5, **LAST)
  masked = run(mlp, garbage, labels, epsilon=0.5, where=where, **LAST)
  np.testing.assert_array_equal(masked.x_adv[~where], garbage[~where])
  assert not masked.success[~where].any()
  np.testing.assert_array_equal(masked.loss[~where], 0)
  np.testing.assert_allclose(
    masked.logits[~where],
    np.asarray(mlp(garbage))[~where],
    rtol=1e-5,
    atol=1e-5,
  )
  assert masked.valid.all()
  assert float(masked.robust_accuracy(where)) == pytest.approx(
    np.mean(~plain.success[where])
  )
  np.testing.assert_array_equal(masked.x_adv[where], plain.x_adv[where])


def test_restarts_keep_the_worst_case_of_each_example(mlp, batch, rounding):
  x, y = batch
  one = run(mlp, x, y, epsilon=0.2, norm="l2")
  many = run(mlp, x, y, epsilon=0.2, **LAST)
  assert_no_better_for_the_model(many, one, y, rounding)
  assert np.any(many.loss > one.loss + rounding)


def test_worst_iterate_is_never_better_for_the_model_than_the_last(
  mlp, batch, rounding
):
  x, y = batch
  last, worst = (
    run(mlp, x, y, epsilon=0.5, step_size=0.5, **options)
    for options in (LAST, WORST)
  )
  assert_no_better_for_the_model(worst, last, y, rounding)
  assert np.any(worst.loss > last.loss)


@pytest.mark.parametrize("norm", NORMS)
def test_accuracy_falls_as_epsilon_grows_to_nothing(mlp, batch, norm):
  x, y = batch
  accuracies = [
    accuracy(run(mlp, x, y, epsilon=factor * EPSILON[norm], norm=norm))
    for factor in (0.0, 0.25, 0.5, 1.0, 10.0)
  ]
  assert accuracies == sorted(accuracies, reverse=True)
  assert accuracies[0] == pytest.approx(7 / 8)
  assert accuracies[-1] <= 0.05


def test_iterating_beats_a_single_step(mlp, batch):
  x, y = batch
  single = jax.device_get(fgsm(mlp, x, y, epsilon=0.1))
  iterated = run(mlp, x, y, epsilon=0.1)
  assert accuracy(iterated) <= accuracy(single)


def test_targeted_reaches_the_target(mlp, batch):
  x, y = batch
  targets = (y + 2) % 5
  result = run(mlp, x, targets, epsilon=1.0, targeted=True)
  np.testing.assert_array_equal(
    result.success, classes(result.logits) == targets
  )
  assert np.mean(result.success) > 0.8
  assert np.mean(classes(mlp(x)) == targets) < 0.2


# JAX draws for all rows of a batch together with the second kind of key.
@pytest.mark.parametrize("kind", ["threefry2x32", "rbg"])
def test_rows_do_not_depend_on_the_batch_or_on_their_place_in_it(
  mlp, batch, kind
):
  x, y = batch
  key = jax.random.key(0, impl=kind)

  def some(rows):
    rest = {"example_ids": rows, "epsilon": 0.1, **LAST}
    return run(mlp, x[rows], y[rows], key, **rest)

  whole = some(np.arange(64))
  # Other positions; other neighbours; the same example twice.
  permuted = np.random.default_rng(3).permutation(64)
  for rows in (permuted, np.arange(64) % 16 + 16):
    np.testing.assert_allclose(some(rows).x_adv, whole.x_adv[rows], atol=1e-5)


def test_the_same_key_repeats_and_another_differs(mlp, batch):
  x, y = batch
  first, again, other = (
    run(mlp, x, y, jax.random.key(seed), epsilon=0.1).x_adv
    for seed in (0, 0, 1)
  )
  np.testing.assert_array_equal(first, again)
  assert np.any(first != other)


def test_zero_gradients_are_counted_where_the_loss_saturates(mlp, batch):
  x, y = batch
  *layers, last = mlp.args[0]
  saturated = jax.tree_util.Partial(mlp.func, (*layers, 1e4 * last))
  right = classes(mlp(x)) == y
  # A start this near behaves like the clean point.
  result = run(saturated, x, y, epsilon=0.01)
  assert np.mean(result.zero_gradients[right]) > 0.9
  for loss in ("margin", "dlr"):
    result = run(saturated, x, y, epsilon=0.01, random_start=False, loss=loss)
    assert not result.zero_gradients[right].any()


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
      run(fn, x, y, epsilon=epsilon, step_size=epsilon / 7)
      before = len(traces)
  assert len(traces) == before
  run(fn, x[::-1], y, jax.random.key(5), epsilon=0.3, step_size=0.1)
  assert len(traces) == before


def test_own_loss_is_ascended(mlp, batch):
  x, y = batch

  def first_logit(logits, labels):
    del labels
    return logits[:, 0]

  result = run(mlp, x, y, epsilon=0.1, loss=first_logit)
  assert np.all(result.logits[:, 0] >= np.asarray(mlp(x))[:, 0])


def test_expectation_over_transformation_averages_the_gradient():
  weights = np.float32([[1.0, -1.0], [1.0, -1.0]])

  def noisy(x, key):
    # The noise flips the gradient's sign in a quarter of the draws.
    flip = jax.random.bernoulli(key, 0.25)
    return jnp.where(flip, -1, 1) * (x @ weights)

  x = np.full((4, 2), 0.5, np.float32)
  result = pgd(
    jax.tree_util.Partial(noisy),
    x,
    np.zeros(4, int),
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
  x, y = batch
  weights = np.ones((16, 5)) * np.arange(5.0)
  network = jax.tree_util.Partial(
    lambda w, v: v.reshape(len(v), -1) @ w, weights
  )
  result = pgd(network, x.astype(float), y, KEY, epsilon=0.1, num_steps=2)
  assert result.x_adv.dtype == jnp.float64
  assert result.loss.dtype == jnp.float64


def test_half_precision_input_is_attacked_in_float32(mlp, batch):
  x, y = batch
  result = run(mlp, x.astype(jnp.bfloat16), y, epsilon=0.1)
  assert result.x_adv.dtype == jnp.float32


@pytest.mark.parametrize("norm", ["linf", "l1"])
def test_kl_pgd_raises_the_divergence_from_the_clean_prediction(
  mlp, batch, norm
):
  x, _ = batch

  def attack(epsilon, step_size):
    return jax.device_get(
      kl_pgd(
        mlp,
        x,
        KEY,
        epsilon=epsilon,
        step_size=step_size,
        num_steps=3,
        norm=norm,
      )
    )

  epsilon = EPSILON[norm]
  result = attack(epsilon, 2.5 * epsilon / 3)
  clean, logits = mlp(x), mlp(result.x_adv)
  expected = divergences.kl_divergence(clean, logits)
  np.testing.assert_allclose(result.loss, expected, rtol=1e-4)
  random = attack(epsilon, 0.0)
  assert np.all(result.loss > random.loss)
  np.testing.assert_array_equal(
    result.success, classes(logits) != classes(clean)
  )
  assert not result.zero_gradients.any()
  np.testing.assert_array_equal(attack(0.0, 0.0).x_adv, x)


def test_kl_anchored_at_its_start_measures_from_there(mlp, batch):
  x, _ = batch
  still = kl_pgd(
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
    (
      {"x": np.full((64, 3), np.inf, np.float32), "bounds": None},
      "x to be finite",
    ),
    ({"norm": "l3"}, "norm to be one of"),
    ({"loss": "hinge"}, "loss to be one of"),
    ({"loss": lambda z, y: z[:, :1]}, r"of shape \[64\], got shape \[64, 1\]"),
    ({"loss": lambda z, y: jnp.mean(z)}, r"per row, .* got shape \[\]"),
    ({"num_steps": 0}, "num_steps >= 1"),
    ({"num_steps": 2.0}, "num_steps to be a Python int"),
    ({"restarts": 2, "random_start": False}, "restarts=1"),
    ({"bounds": (1, 0)}, "low < high"),
    ({"bounds": (np.zeros(3), np.ones(3))}, "two numbers"),
    ({"keep": "best"}, "keep to be one of"),
    ({"eot_samples": 0}, "eot_samples >= 1"),
    ({"key": None}, "key to be a PRNG key"),
    ({"x": np.zeros((64, 16), np.uint8)}, "/ 255"),
    ({"x": np.full((64, 4, 4, 1), 255, np.float32)}, "x in bounds"),
    ({"y": np.zeros(64, np.float32)}, "integer y"),
    ({"y": np.full(64, 5, np.int32)}, r"y\[0\]=5"),
    ({"y": np.zeros(3, np.int32)}, "one label an example"),
    ({"where": np.ones(64, np.float32)}, "where to be a boolean mask"),
    ({"example_ids": np.zeros(64, np.float32)}, "integer example_ids"),
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
