import functools

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

import robust_info as ri

SIZE, CLASSES, PAIRS = 8, 5, 6
# Shares of tanh, of relu and of the identity in a hidden unit: an argument, so
# that all activations share their compiled programs.
ACTIVATIONS = {
  "tanh": np.float32([1, 0, 0]),
  "relu": np.float32([0, 1, 0]),
  "identity": np.float32([0, 0, 1]),
}


def network(scale=2.0, seed=0, dtype=np.float32):
  rng = np.random.default_rng(seed)
  params = {
    "first": rng.normal(size=(SIZE, 12)) / SIZE**0.5,
    "bias": 0.3 * rng.normal(size=(12,)),
    "second": scale * rng.normal(size=(12, CLASSES)) / 3,
  }
  return jax.tree.map(lambda w: jnp.asarray(np.asarray(w, dtype)), params)


def apply(params, x, activation=ACTIVATIONS["tanh"]):
  hidden = x @ params["first"] + params["bias"][None]
  kinds = (jnp.tanh(hidden), jax.nn.relu(hidden), hidden)
  hidden = sum(
    activation[k].astype(x.dtype) * kind for k, kind in enumerate(kinds)
  )
  return hidden @ params["second"]


# One program instead of one per operation.
predict = jax.jit(apply)


def pairs(dtype=np.float32, distance=1.0):
  rng = np.random.default_rng(1)
  x, d = rng.normal(size=(2, PAIRS, SIZE))
  return tuple(
    jnp.asarray(np.asarray(points, dtype)) for points in (x, x + distance * d)
  )


def path_fn(activation="tanh", *, num_nodes=32, method="chord", **kwargs):
  path = compiled_path(num_nodes=num_nodes, method=method, **kwargs)
  return functools.partial(path, ACTIVATIONS[activation])


@functools.cache
def compiled_path(**kwargs):
  return jax.jit(
    lambda activation, params, x, x_other: ri.disentangle_path(
      functools.partial(apply, params, activation=activation),
      x,
      x_other,
      **kwargs,
    )
  )


@jax.jit
def local(params, x, x_other):
  return ri.disentangle_local(functools.partial(apply, params), x, x_other)


@jax.jit
@jax.value_and_grad
def mean_and_gradient(params, x, x_other):
  return jnp.mean(path_fn()(params, x, x_other).non_robust)


@functools.cache
def truth(activation="tanh"):
  """The Fisher part of every pair by 10^5-node quadrature in float64."""
  first, bias, second = (
    np.asarray(network()[k], np.float64) for k in ("first", "bias", "second")
  )
  act = {"tanh": np.tanh, "relu": lambda h: np.maximum(h, 0)}[activation]
  slope = {
    "tanh": lambda h: 1 - np.tanh(h) ** 2,
    "relu": lambda h: (h > 0).astype(float),
  }[activation]
  results = []
  for a, b in zip(*(np.asarray(p, np.float64) for p in pairs()), strict=True):
    start, step = a @ first + bias, (b - a) @ first

    def logits(t, start=start, step=step):
      return act(start + t[:, None] * step) @ second

    def velocity(t, start=start, step=step):
      return (slope(start + t[:, None] * step) * step) @ second

    results.append(float(oracles.path_fisher(logits, velocity)))
  return np.array(results)


@pytest.mark.parametrize("activation", ["tanh", "relu"])
@pytest.mark.parametrize("method", ["chord", "extrapolated", "jvp"])
def test_path_agrees_with_a_hundred_thousand_node_quadrature(
  activation, method
):
  # The trapezoidal rule sees a ReLU kink as a jump: first order there.
  num_nodes = 256 if activation == "relu" and method == "jvp" else 64
  parts = path_fn(activation, method=method, num_nodes=num_nodes)(
    network(), *pairs()
  )
  np.testing.assert_allclose(parts.non_robust, truth(activation), rtol=1e-2)


def test_chord_and_jvp_converge_to_the_same_number():
  gaps = []
  for num_nodes in (7, 64):
    chord, jvp = (
      path_fn(method=method, num_nodes=num_nodes)(network(), *pairs())
      for method in ("chord", "jvp")
    )
    gaps.append(np.abs(chord.non_robust - jvp.non_robust).max())
  # The order of convergence is above 1.2.
  assert gaps[1] < 0.07 * gaps[0]


def test_p1_parts_add_up_to_kl():
  params, (x, x_other) = network(), pairs()
  kl = ri.kl_divergence(predict(params, x), predict(params, x_other))
  for parts in (
    path_fn()(params, x, x_other),
    local(params, x, x_other),
  ):
    np.testing.assert_allclose(parts.total, kl, rtol=1e-5)
    np.testing.assert_allclose(
      parts.non_robust + parts.robust, parts.total, rtol=1e-5, atol=1e-6
    )


def test_p1_curvature_part_by_independent_second_derivatives(x64):
  params, (x, x_other) = network(dtype=np.float64), pairs(np.float64)
  t = (jnp.arange(400) + 0.5) / 400
  fn = functools.partial(apply, params)

  def integrand(t):
    def logits(t):
      return fn((1 - t) * x + t * x_other)

    def velocity(t):
      return jax.jvp(logits, (t,), (jnp.ones_like(t),))[1]

    _, acceleration = jax.jvp(velocity, (t,), (jnp.ones_like(t),))
    change = jax.nn.softmax(logits(t)) - jax.nn.softmax(fn(x))
    return (1 - t) * jnp.sum(change * acceleration, axis=-1)

  curvature = jnp.mean(jax.jit(jax.vmap(integrand))(t), axis=0)
  parts = path_fn(num_nodes=128)(params, x, x_other)
  np.testing.assert_allclose(parts.robust, curvature, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize(
  ("method", "num_nodes", "tolerance"),
  [
    ("chord", 1, 1e-5),
    ("chord", 7, 1e-5),
    ("chord", 32, 1e-5),
    ("extrapolated", 64, 1e-5),
    ("jvp", 256, 1e-2),
  ],
)
def test_p2_linear_logits_have_no_robust_part(method, num_nodes, tolerance):
  parts = path_fn("identity", method=method, num_nodes=num_nodes)(
    network(), *pairs()
  )
  assert (np.abs(parts.robust) <= tolerance * np.asarray(parts.total)).all()


def test_p3_both_directions_average_to_half_the_energy_above_the_geodesic():
  params, (x, x_other) = network(), pairs()
  there = path_fn(num_nodes=64)(params, x, x_other)
  back = path_fn(num_nodes=64)(params, x_other, x)
  average = (there.non_robust + back.non_robust) / 2
  fn = functools.partial(apply, params)

  def speed(t):
    return ri.fisher_quadratic(fn, (1 - t) * x + t * x_other, x_other - x)

  energy = jnp.mean(
    jax.jit(jax.vmap(speed))((jnp.arange(200) + 0.5) / 200), axis=0
  )
  np.testing.assert_allclose(average, energy / 2, rtol=1e-2)
  distance = ri.fisher_rao_distance(
    predict(params, x), predict(params, x_other)
  )
  np.testing.assert_allclose(there.geodesic, distance**2 / 2, rtol=1e-5)
  np.testing.assert_allclose(there.geodesic, back.geodesic, rtol=1e-5)
  assert (average >= there.geodesic * (1 - 1e-5)).all()
  assert (there.geodesic <= np.pi**2 / 2 + 1e-5).all()


def test_p4_fisher_part_is_below_the_largest_eigenvalue_on_the_way():
  params, (x, x_other) = network(), pairs()
  fn = functools.partial(apply, params)
  top = jax.jit(
    jax.vmap(lambda t: ri.fisher_spectral_norm(fn, (1 - t) * x + t * x_other))
  )(jnp.linspace(0, 1, 101))
  squared = jnp.sum((x_other - x) ** 2, axis=-1)
  bound = squared * jnp.max(top, axis=0) / 2
  assert (path_fn()(params, x, x_other).non_robust <= bound * 1.001).all()


def test_p5_one_segment_is_the_divergence_itself():
  parts = path_fn(num_nodes=1)(network(), *pairs())
  np.testing.assert_allclose(parts.non_robust, parts.total, rtol=1e-5)
  assert np.isnan(parts.error).all()


def test_p5_exact_for_relu_once_every_kink_is_a_node(x64):
  # One input, so that the kinks are known: at t = 1/4, 1/2 and 3/4.
  kinks = np.array([0.25, 0.5, 0.75])
  weights = np.array([[3.0, -2.0], [-5.0, 4.0], [6.0, 1.0]])

  def fn(x):
    hidden = jax.nn.relu(x - kinks[None])
    return hidden @ weights + 2 * x * np.array([[1.0, -1.0]])

  @functools.partial(jax.jit, static_argnames="num_nodes")
  def path(x, x_other, num_nodes):
    parts = ri.disentangle_path(fn, x, x_other, num_nodes=num_nodes)
    return parts.non_robust[0]

  ends = np.zeros((1, 1)), np.ones((1, 1))
  exact, finer, coarse = (float(path(*ends, num_nodes=n)) for n in (4, 20, 3))
  np.testing.assert_allclose(finer, exact, rtol=1e-12)
  assert abs(coarse - exact) > 1e-4 * exact


def test_error_estimate_is_the_step_from_half_the_nodes():
  coarse = path_fn(num_nodes=32)(network(), *pairs())
  fine = path_fn(num_nodes=64)(network(), *pairs())
  np.testing.assert_allclose(
    fine.error, np.abs(fine.non_robust - coarse.non_robust), atol=1e-5
  )
  assert (np.abs(fine.non_robust - truth()) <= fine.error + 1e-4).all()


def test_p6_one_point_estimate_is_unbiased():
  params, (x, x_other) = network(), pairs()
  fn = functools.partial(apply, params)
  samples = jax.jit(
    jax.vmap(lambda key: ri.path_fisher_estimate(fn, x, x_other, key))
  )(jax.random.split(jax.random.key(0), 4000))
  assert (samples >= 0).all()
  error = np.asarray(samples).std(0) / 4000**0.5
  assert (np.abs(np.asarray(samples).mean(0) - truth()) < 4 * error).all()


def test_p6_gradient_is_unbiased():
  x, x_other = pairs()

  def estimate(params, key):
    fn = functools.partial(apply, params)
    return jnp.mean(ri.path_fisher_estimate(fn, x, x_other, key))

  gradients = jax.jit(jax.vmap(jax.grad(estimate), in_axes=(None, 0)))(
    network(), jax.random.split(jax.random.key(0), 4000)
  )
  _, wanted = mean_and_gradient(network(), x, x_other)
  for name, samples in gradients.items():
    deviation = np.asarray(samples).mean(0) - np.asarray(wanted[name])
    error = np.asarray(samples).std(0) / 4000**0.5
    assert (np.abs(deviation) < 5 * error + 5e-3).all(), name


# --- Error control.

ADAPTIVE = {"num_nodes": 4, "rtol": 1e-3, "max_nodes": 256}


def test_adaptive_path_meets_its_tolerance():
  parts = path_fn(**ADAPTIVE)(network(), *pairs())
  wrong = np.abs(parts.non_robust - truth())
  assert (wrong <= 1e-3 * truth()).all()
  assert (parts.error <= 1e-3 * np.asarray(parts.non_robust)).all()
  assert (parts.nodes < 256).all()


def test_adaptive_path_does_not_trust_kinks_next_to_a_node():
  parts = path_fn("relu", **ADAPTIVE)(network(), *pairs())
  wrong = np.abs(parts.non_robust - truth("relu"))
  assert (wrong <= parts.error).all()


@pytest.mark.parametrize("scale", [30.0, 300.0])
def test_adaptive_path_of_saturated_networks_meets_its_tolerance(scale):
  params = network(scale)
  parts = path_fn("relu", **ADAPTIVE)(params, *pairs())
  finest = path_fn("relu", num_nodes=2048)(params, *pairs()).non_robust
  met = parts.error <= 1e-3 * parts.non_robust
  wrong = np.abs(parts.non_robust - finest)
  assert (wrong <= np.where(met, 1e-3 * finest, parts.error)).all()


@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_extrapolation_is_nearer_than_the_chords_it_is_made_of(activation):
  parts = path_fn(activation, method="extrapolated", num_nodes=64)(
    network(), *pairs()
  )
  chord = path_fn(activation, num_nodes=64)(network(), *pairs())
  wrong, wrong_chord = (
    np.abs(p.non_robust - truth(activation)) for p in (parts, chord)
  )
  assert np.median(wrong / wrong_chord) < 0.4
  assert (wrong <= parts.error).all()


# A tolerance below float32 rounding is never met.
UNMET = {"num_nodes": 16, "rtol": 1e-7, "max_nodes": 64}


@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_extrapolation_is_what_doubling_the_nodes_gives(activation):
  doubled = path_fn(activation, **UNMET)(network(), *pairs())
  fixed = path_fn(activation, method="extrapolated", num_nodes=64)(
    network(), *pairs()
  )
  np.testing.assert_array_equal(fixed.nodes, doubled.nodes)
  for name in ("total", "non_robust", "robust", "error"):
    np.testing.assert_allclose(
      getattr(fixed, name), getattr(doubled, name), rtol=1e-5, atol=1e-5
    )


def test_half_precision_is_warned_of_and_within_its_stated_error():
  """Also if the logits are float32 and a hidden layer is not."""
  params, (x, x_other) = network(), pairs()

  def low(params, x, dtype):
    first, bias = (params[k].astype(dtype) for k in ("first", "bias"))
    hidden = jnp.tanh(x.astype(dtype) @ first + bias[None])
    return hidden.astype(jnp.float32) @ params["second"]

  @jax.jit
  def lens(params, x, x_other):
    fn = functools.partial(low, params, dtype=jnp.bfloat16)
    path = functools.partial(ri.disentangle_path, fn, x, x_other, num_nodes=64)
    return path(method="extrapolated"), path()

  exact = path_fn(method="extrapolated", num_nodes=64)(params, x, x_other)
  with pytest.warns(UserWarning, match="compute the network in float32"):
    lenses = lens(params, x, x_other)
  for found in lenses:
    gap = np.abs(found.non_robust - exact.non_robust)
    assert (gap <= found.error + exact.error).all()
  fn = functools.partial(low, params, dtype=jnp.float16)
  for options in ({}, {"rtol": 0.1}):
    with pytest.warns(UserWarning, match="compute the network in float32"):
      jax.eval_shape(
        functools.partial(ri.disentangle_path, fn, **options), x, x_other
      )


def test_derivatives_along_a_path_of_half_precision_have_a_true_error():
  rng = np.random.default_rng(0)
  weights = rng.normal(size=(6, 4)).astype(np.float32)
  x, x_other = rng.random((2, 64, 6)).astype(jnp.bfloat16)
  network = jax.tree_util.Partial(
    lambda weights, v: v.astype(jnp.float32) @ weights, weights
  )
  with pytest.warns(UserWarning, match="compute the network in float32"):
    # More nodes than bfloat16 has numbers in (1/2, 1).
    found = ri.disentangle_path(
      network, x, x_other, num_nodes=512, method="jvp"
    )
  # Linear logits have no robust part.
  assert (np.abs(found.robust) <= found.error).all()
  # Errors of the pairs have no common sign.
  share = np.mean(found.robust) / np.mean(found.total)
  assert abs(share) < float(jnp.finfo(jnp.bfloat16).eps) / 4


def test_unmet_tolerance_is_reported():
  parts = path_fn(**UNMET)(network(), *pairs())
  assert (parts.nodes <= 64).all()
  assert (parts.error > 1e-7 * parts.non_robust).all()
  assert (np.abs(parts.non_robust - truth()) <= parts.error).all()


@pytest.mark.parametrize("distance", [1e-1, 1e-3])
def test_near_identical_pairs_do_not_drown_in_rounding(distance):
  params, (x, x_other) = network(), pairs(distance=distance)
  parts = path_fn(**ADAPTIVE)(params, x, x_other)
  quadratic = local(params, x, x_other).non_robust
  bound = 1e-2 + 3 * distance
  np.testing.assert_allclose(parts.non_robust, quadratic, rtol=bound)
  assert (parts.nodes <= 64).all()


def test_identical_inputs_have_nothing_to_disentangle():
  # Few binary digits: the points between x and itself are x, to the last bit.
  x = np.round(16 * np.asarray(pairs()[0])) / 16
  for parts in (
    path_fn()(network(), x, x),
    path_fn(**ADAPTIVE)(network(), x, x),
    local(network(), x, x),
  ):
    for name in ("total", "non_robust", "robust"):
      np.testing.assert_array_equal(getattr(parts, name), 0.0)


@pytest.mark.parametrize("adaptive", [False, True])
def test_path_is_differentiable_in_the_parameters(adaptive, x64):
  params, (x, x_other) = network(dtype=np.float64), pairs(np.float64)
  few = {"num_nodes": 4, "rtol": 1e-3, "max_nodes": 8}
  fn = path_fn(**(few if adaptive else {"num_nodes": 4}))

  @jax.jit
  @jax.value_and_grad
  def loss(params):
    parts = fn(params, x, x_other)
    return jnp.sum(parts.non_robust) + 0.5 * jnp.sum(parts.robust)

  params = jax.tree.map(np.asarray, params)
  _, gradient = loss(params)
  direction = jax.tree.map(
    lambda w: np.cos(np.arange(w.size)).reshape(w.shape), params
  )
  h = 1e-6
  ahead, behind = (
    loss(jax.tree.map(lambda w, d, s=s: w + s * h * d, params, direction))[0]
    for s in (1, -1)
  )
  slope = sum(
    np.sum(np.asarray(g) * d)
    for g, d in zip(
      jax.tree.leaves(gradient), jax.tree.leaves(direction), strict=True
    )
  )
  np.testing.assert_allclose(
    slope, (float(ahead) - float(behind)) / (2 * h), rtol=1e-5
  )


@pytest.mark.parametrize("scale", [0.0, 1e4])
def test_no_nan_in_value_or_gradient(scale):
  value, gradient = mean_and_gradient(network(scale), *pairs())
  assert np.isfinite(value)
  assert all(np.isfinite(g).all() for g in jax.tree.leaves(gradient))


# --- Local lens.


def test_local_lens_is_half_the_quadratic_form():
  params, (x, x_other) = network(), pairs()
  parts = local(params, x, x_other)

  @jax.jit
  def quadratic(params, x, x_other):
    fn = functools.partial(apply, params)
    return ri.fisher_quadratic(fn, x, x_other - x)

  np.testing.assert_allclose(
    parts.non_robust, quadratic(params, x, x_other) / 2, rtol=1e-5
  )
  assert parts.error is None


def test_local_lens_explains_neighbours_completely():
  parts = local(network(), *pairs(distance=1e-3))
  assert (np.abs(parts.robust) < 1e-2 * np.asarray(parts.total)).all()


def test_parameters_and_data_change_without_recompiling():
  traces = []

  @jax.jit
  def split(params, x, x_other):
    traces.append(1)
    fn = functools.partial(apply, params)
    return ri.disentangle_path(fn, x, x_other, num_nodes=4).non_robust

  for seed in range(3):
    split(network(seed=seed), *pairs())
  assert len(traces) == 1


def first_three(x):
  return x[:, :3]


X = jnp.zeros((2, 4))


@pytest.mark.parametrize(
  ("call", "message"),
  [
    (
      lambda: ri.disentangle_local(first_three, X, X[:1]),
      "Expected x_other of the shape of x",
    ),
    (
      lambda: ri.disentangle_path(first_three, X, X, num_nodes=0),
      "Expected num_nodes >= 1",
    ),
    (
      lambda: ri.disentangle_path(first_three, X, X, method="simpson"),
      "Expected method to be one of 'chord', 'extrapolated', 'jvp'",
    ),
    (
      lambda: ri.disentangle_path(
        first_three, X, X, method="extrapolated", num_nodes=6
      ),
      "Expected num_nodes to be a multiple of 4",
    ),
    (
      lambda: ri.disentangle_path(first_three, X, X, method="jvp", rtol=0.1),
      'Expected method="chord" with rtol',
    ),
    (
      lambda: ri.disentangle_path(first_three, X, X, rtol=-0.1),
      "Expected rtol >= 0",
    ),
    (
      lambda: ri.disentangle_path(first_three, X, X, rtol=0.1, max_nodes=8),
      "Expected max_nodes >= num_nodes=32",
    ),
  ],
)
def test_bad_input_is_named(call, message):
  with pytest.raises(ValueError, match=message):
    call()
