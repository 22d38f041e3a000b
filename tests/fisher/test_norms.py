import functools

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

import robust_info as ri

SIZE = 6
EPS = np.finfo(np.float32).eps
SCALARS = ("trace", "frobenius", "spectral_norm")


def network(num_classes, dtype=np.float32, scale=1.0, bias=0.0, seed=0):
  """Parameters of a smooth two-layer network, whose function is `apply`."""
  rng = np.random.default_rng(seed)
  params = {
    "first": rng.normal(size=(SIZE, 16)) / SIZE**0.5,
    "second": scale * rng.normal(size=(16, num_classes)) / 2,
    "bias": bias * np.arange(num_classes),
  }
  return jax.tree.map(lambda w: jnp.asarray(np.asarray(w, dtype)), params)


def apply(params, x):
  hidden = jnp.tanh(x.reshape(x.shape[0], SIZE) @ params["first"])
  return hidden @ params["second"] + params["bias"][None]


def inputs(num_examples=5, dtype=np.float32):
  rng = np.random.default_rng(9)
  x = rng.normal(size=(num_examples, 2, SIZE // 2))
  return jnp.asarray(np.asarray(x, dtype))


def dense(params, x):
  """F [N, D, D] in extended precision from float64 Jacobians by hand."""
  first, second, bias = (
    np.asarray(params[name], np.float64) for name in ("first", "second", "bias")
  )
  flat = np.asarray(x, np.float64).reshape(x.shape[0], SIZE)
  matrices = []
  for row in flat:
    hidden = np.tanh(row @ first)
    jacobian = second.T @ np.diag(1 - hidden**2) @ first.T
    matrices.append(oracles.fisher(jacobian, hidden @ second + bias))
  return np.stack(matrices).astype(np.float64)


@functools.cache
def norms_fn(method="gram", batch_size=None):
  return jax.jit(
    lambda params, x: ri.fisher_norms(
      functools.partial(apply, params),
      x,
      method=method,
      num_eigenvectors=SIZE,
      num_steps=SIZE,
      num_probes=2,
      batch_size=batch_size,
    )
  )


@functools.cache
def single_functions():
  """Results of the single functions on one network, along one direction."""

  @jax.jit
  def call(params, x, v):
    fn = functools.partial(apply, params)
    return {
      "trace": ri.fisher_trace(fn, x),
      "frobenius": ri.fisher_frobenius(fn, x),
      "spectral_norm": ri.fisher_spectral_norm(fn, x),
      "eigenvectors": ri.fisher_eigenvectors(fn, x, k=2),
      "gram": ri.fisher_gram(fn, x),
      "product": ri.fisher_vector_product(fn, x, v),
      "quadratic": ri.fisher_quadratic(fn, x, v),
    }

  return jax.tree.map(np.asarray, call(network(4), inputs(), direction()))


def direction(dtype=np.float32):
  return np.random.default_rng(3).normal(size=inputs().shape).astype(dtype)


def assert_norms(params, x, norms, rtol):
  expected = dense(params, x)
  eigenvalues = np.linalg.eigvalsh(expected)[:, ::-1]
  np.testing.assert_allclose(
    norms.trace, np.trace(expected, axis1=1, axis2=2), rtol=rtol
  )
  np.testing.assert_allclose(
    norms.frobenius, np.sqrt((expected**2).sum((1, 2))), rtol=rtol
  )
  np.testing.assert_allclose(norms.spectral_norm, eigenvalues[:, 0], rtol=rtol)
  vectors = np.asarray(norms.vectors).reshape(len(x), -1, SIZE)
  residual = np.einsum("nij,nkj->nki", expected, vectors) - (
    np.asarray(norms.values)[..., None] * vectors
  )
  assert np.abs(residual).max() <= 10 * rtol * eigenvalues[:, 0].max()
  np.testing.assert_allclose(
    norms.values,
    np.maximum(eigenvalues, 0),
    atol=10 * rtol * eigenvalues[:, 0].max(),
  )
  gram = vectors @ np.swapaxes(vectors, 1, 2)
  found = np.asarray(norms.values) > 0
  unit = np.eye(vectors.shape[1])[None] * found[:, :, None]
  np.testing.assert_allclose(gram, unit, atol=100 * rtol)


@pytest.mark.parametrize(
  ("num_classes", "num_examples"),
  [(2, 5), (4, 5), (10, 1)],  # 10 > D
)
def test_norms_and_eigenvectors_match_the_dense_matrix(
  num_classes, num_examples
):
  params, x = network(num_classes), inputs(num_examples)
  assert_norms(params, x, norms_fn()(params, x), rtol=1e-4)


@pytest.mark.parametrize("method", ["gram", "matrix_free"])
def test_norms_in_float64(method, x64):
  params = network(4, np.float64)
  x = inputs(dtype=np.float64)
  # Six steps span the whole space: nothing is left for the probes.
  norms = norms_fn(method)(params, x)
  assert norms.trace.dtype == jnp.float64
  assert_norms(params, x, norms, rtol=1e-10)


def test_single_functions_agree_with_norms():
  norms = jax.tree.map(np.asarray, norms_fn()(network(4), inputs()))
  found = single_functions()
  for name in SCALARS:
    np.testing.assert_allclose(found[name], getattr(norms, name), rtol=1e-5)
  values, vectors = found["eigenvectors"]
  np.testing.assert_allclose(values, norms.values[:, :2], rtol=1e-5)
  assert vectors.shape == (5, 2, 2, 3)
  overlap = np.sum(vectors * norms.vectors[:, :2], axis=(2, 3))
  np.testing.assert_allclose(np.abs(overlap), 1.0, rtol=1e-3)
  # The norms are exact, so their errors are rounding only.
  for name in SCALARS:
    share = getattr(norms, f"{name}_error") / getattr(norms, name)
    assert ((share > EPS) & (share < 100 * EPS)).all()


def test_gram_has_the_norms_of_the_matrix_and_annihilates_root_p():
  params, x = network(4), inputs()
  gram = single_functions()["gram"]
  expected = dense(params, x)
  np.testing.assert_allclose(
    np.trace(gram, axis1=1, axis2=2),
    np.trace(expected, axis1=1, axis2=2),
    rtol=1e-4,
  )
  np.testing.assert_allclose(
    np.linalg.norm(gram, axis=(1, 2)),
    np.linalg.norm(expected, axis=(1, 2)),
    rtol=1e-4,
  )
  root = np.sqrt(oracles.softmax(apply(params, x))).astype(np.float32)
  image = np.einsum("nkl,nl->nk", gram, root)
  assert np.abs(image).max() < 1e-6 * np.abs(gram).max()
  np.testing.assert_allclose(gram, np.swapaxes(gram, 1, 2), atol=1e-7)


def test_spectrum_relations():
  norms = norms_fn()(network(4, scale=3.0), inputs())
  slack = 1 + 1e-5
  assert (norms.spectral_norm <= slack * norms.frobenius).all()
  assert (norms.frobenius <= slack * norms.trace).all()
  assert (norms.trace <= slack * 3 * norms.spectral_norm).all()


@pytest.mark.parametrize(
  ("method", "dtype"), [("gram", np.float32), ("matrix_free", np.float64)]
)
def test_a_constant_added_to_all_logits_changes_nothing(method, dtype):
  with jax.enable_x64(dtype == np.float64):
    params, x = network(4, dtype), inputs(dtype=dtype)
    # 64 in float32, and the same multiple of the rounding unit in float64.
    constant = np.full(4, 2.0**-17 / np.finfo(dtype).eps, dtype)
    norms, found = (
      norms_fn(method)(dict(params, bias=bias), x)
      for bias in (params["bias"], jnp.asarray(constant))
    )
  for name in SCALARS:
    np.testing.assert_allclose(
      getattr(found, name), getattr(norms, name), rtol=1e-4
    )


def test_linear_model_has_the_closed_form():
  weights = np.random.default_rng(2).normal(size=(SIZE, 4)).astype(np.float32)
  x = inputs().reshape(5, SIZE)
  p = oracles.softmax(np.asarray(x) @ weights).astype(np.float64)
  cov = np.stack([np.diag(q) - np.outer(q, q) for q in p])
  expected = weights @ cov @ weights.T
  norms = jax.jit(lambda x: ri.fisher_norms(lambda x: x @ weights, x))(x)
  np.testing.assert_allclose(
    norms.trace, np.trace(expected, axis1=1, axis2=2), rtol=1e-5
  )
  np.testing.assert_allclose(
    norms.spectral_norm, np.linalg.eigvalsh(expected)[:, -1], rtol=1e-5
  )


def test_products_match_the_dense_matrix():
  params, x = network(4), inputs()
  flat = direction(np.float64).reshape(5, SIZE)
  expected = np.einsum("nij,nj->ni", dense(params, x), flat)
  product = single_functions()["product"].reshape(5, SIZE)
  error = np.linalg.norm(product - expected, axis=1)
  assert (error <= 1e-4 * np.linalg.norm(expected, axis=1)).all()
  np.testing.assert_allclose(
    single_functions()["quadratic"],
    np.einsum("ni,ni->n", flat, expected),
    rtol=1e-4,
  )


def test_kl_to_a_neighbour_is_half_the_quadratic_form(x64):
  params, x = network(4, np.float64), inputs(dtype=np.float64)
  fn = functools.partial(apply, params)

  @jax.jit
  def ratio(h):
    v = direction(np.float64)
    divergence = ri.kl_divergence(fn(x), fn(x + h * v))
    return divergence / (h**2 / 2 * ri.fisher_quadratic(fn, x, v))

  errors = [np.abs(ratio(h) - 1).max() for h in (1e-2, 1e-3, 1e-4)]
  assert errors[0] > errors[1] > errors[2]
  assert errors[2] < 1e-3


def test_saturated_predictions_keep_their_digits():
  # The logit of the second class is 80 nats behind.
  params = network(4, scale=0.1, bias=-80.0)
  x = inputs()
  norms = norms_fn()(params, x)
  expected = np.trace(dense(params, x), axis1=1, axis2=2)
  assert expected.max() < 1e-30
  np.testing.assert_allclose(norms.trace, expected, rtol=1e-4)
  np.testing.assert_allclose(norms.spectral_norm, expected, rtol=1e-4)


def test_no_examples():
  norms = norms_fn()(network(4), inputs(0))
  assert norms.trace.shape == (0,)
  assert norms.vectors.shape == (0, SIZE, 2, SIZE // 2)


# test_coarse.py tests float16.
def test_half_precision_inputs_give_float32_norms():
  params, x, dtype = network(4), inputs(), jnp.bfloat16
  norms = jax.jit(
    lambda params, x: ri.fisher_norms(functools.partial(apply, params), x)
  )(jax.tree.map(lambda w: w.astype(dtype), params), x.astype(dtype))
  assert norms.trace.dtype == jnp.float32
  np.testing.assert_allclose(norms.trace, norms_fn()(params, x).trace, rtol=0.1)


@functools.cache
def parameter_gradients():
  def scalars(params, x):
    norms = ri.fisher_norms(functools.partial(apply, params), x)
    return jnp.stack([jnp.sum(getattr(norms, name)) for name in SCALARS])

  return jax.jit(
    lambda params, x: (scalars(params, x), jax.jacrev(scalars)(params, x))
  )


def test_derivatives_match_finite_differences(x64):
  """The first from both modes, the second from one over the other."""
  params, x = network(4, np.float64), inputs(2, np.float64)
  change = network(4, np.float64, seed=3)

  def scalars(t):
    moved = jax.tree.map(lambda w, d: w + t * d, params, change)
    norms = ri.fisher_norms(functools.partial(apply, moved), x)
    return jnp.concatenate([getattr(norms, name) for name in SCALARS])

  def values_and_slopes(t):
    values, pull = jax.vjp(scalars, t)
    return values, jax.vmap(pull)(jnp.eye(len(values)))[0]

  @jax.jit
  def derivatives(t):
    return jax.jvp(values_and_slopes, (t,), (jnp.ones(()),))

  step = 1e-5
  (_, backward), (forward, second) = derivatives(0.0)
  (values, slopes), (values_behind, slopes_behind) = (
    derivatives(t)[0] for t in (step, -step)
  )
  first = (values - values_behind) / (2 * step)
  for slope in (forward, backward):
    np.testing.assert_allclose(slope, first, rtol=1e-5)
  differences = (slopes - slopes_behind) / (2 * step)
  np.testing.assert_allclose(second, differences, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("scale", [0.0, 1.0, 30.0, 1e4])
def test_no_nan_in_value_or_gradient(scale):
  values, gradients = parameter_gradients()(network(4, scale=scale), inputs())
  assert np.isfinite(values).all()
  assert all(np.isfinite(g).all() for g in jax.tree.leaves(gradients))


def test_parameters_and_data_change_without_recompiling():
  traces = []

  @jax.jit
  def trace(params, x):
    traces.append(1)
    return ri.fisher_trace(functools.partial(apply, params), x)

  results = [trace(network(4, seed=seed), inputs() + seed) for seed in range(3)]
  assert len(traces) == 1
  assert len({float(r[0]) for r in results}) == 3


def test_vmap_over_networks():
  stacked = jax.tree.map(
    lambda *w: np.stack(w), network(4, seed=1), network(4, seed=0)
  )
  x = inputs()

  @jax.jit
  @jax.vmap
  def trace(params):
    return ri.fisher_trace(functools.partial(apply, params), x)

  np.testing.assert_allclose(
    trace(stacked)[1], single_functions()["trace"], rtol=1e-5
  )


def test_batches_give_what_one_call_gives():
  params, x = network(4), inputs()
  whole = norms_fn()(params, x)
  parts = norms_fn(batch_size=3)(params, x)
  for name in SCALARS:
    np.testing.assert_allclose(
      getattr(parts, name), getattr(whole, name), rtol=1e-5
    )
  assert parts.vectors.shape == whole.vectors.shape


def test_batches_have_probes_of_their_own():
  x = np.repeat(np.asarray(inputs()[:1]), 4, axis=0)
  for norms in (
    functools.partial(ri.fisher_norms, method="matrix_free", num_steps=2),
    functools.partial(ri.coarse_fisher_norms, max_classes=1),
  ):
    found = norms(
      functools.partial(apply, network(4)), x, num_probes=2, batch_size=2
    )
    estimate = np.asarray(found.trace + found.trace_error)
    assert not np.allclose(estimate[:2], estimate[2:])


def test_batches_bound_the_memory():
  x = jnp.zeros((64, 4096))
  weights = jnp.ones((4096, 8))

  def peak(batch_size):
    fn = jax.jit(
      lambda w, x: ri.fisher_trace(lambda x: x @ w, x, batch_size=batch_size)
    )
    analysis = fn.lower(weights, x).compile().memory_analysis()
    return analysis.temp_size_in_bytes

  assert peak(8) < 0.4 * peak(None)


# --- Matrix-free, if it is not exact: many classes, few steps.


def wide(num_classes=12, size=14):
  rng = np.random.default_rng(4)
  first = jnp.asarray(np.float32(rng.normal(size=(size, 16)) / size**0.5))
  second = jnp.asarray(np.float32(rng.normal(size=(16, num_classes))))
  x = jnp.asarray(np.float32(rng.normal(size=(3, size))))
  return (lambda x: jnp.tanh(x @ first) @ second), x


@functools.cache
def wide_norms():
  fn, x = wide()
  norms = jax.jit(lambda x: ri.fisher_norms(fn, x, num_eigenvectors=11))(x)
  return jax.tree.map(np.asarray, norms)


@functools.cache
def repeated_estimates():
  fn, x = wide()
  estimate = jax.jit(
    lambda key: ri.fisher_norms(
      fn, x, method="matrix_free", num_steps=3, num_probes=8, key=key
    )
  )
  keys = jax.random.split(jax.random.key(0), 60)
  return [jax.tree.map(np.asarray, estimate(key)) for key in keys]


@pytest.mark.parametrize("name", ["trace", "frobenius"])
def test_matrix_free_estimates_are_unbiased_with_the_stated_error(name):
  exact = getattr(wide_norms(), name)
  values = np.stack([getattr(r, name) for r in repeated_estimates()])
  errors = np.stack([getattr(r, f"{name}_error") for r in repeated_estimates()])
  deviation = values.mean(0) - exact
  # Sixty runs: the mean is within four of its own standard errors.
  assert (np.abs(deviation) < 4 * values.std(0) / 60**0.5 + 1e-3 * exact).all()
  stated = np.sqrt((errors**2).mean(0))
  assert (stated < 1.4 * values.std(0) + 1e-5 * exact).all()
  assert (stated > 0.7 * values.std(0)).all()
  # Errors from eight probes: Student's distribution would give 0.65 and 0.91.
  missed = np.abs(values - exact)
  assert ((missed <= errors).mean(0) > 0.5).all()
  assert ((missed <= 2 * errors).mean(0) > 0.75).all()


def test_a_ritz_value_is_a_lower_bound_and_near_an_eigenvalue():
  eigenvalues = wide_norms().values
  for result in repeated_estimates()[:10]:
    found = np.asarray(result.spectral_norm)
    assert (found <= eigenvalues[:, 0] * (1 + 1e-5)).all()
    gap = np.abs(eigenvalues - found[:, None]).min(axis=1)
    assert (gap <= np.asarray(result.spectral_norm_error) * (1 + 1e-4)).all()


def test_lanczos_eigenvectors_converge():
  fn, x = wide()
  values, vectors = wide_norms().values[:, :3], wide_norms().vectors[:, :3]

  @jax.jit
  def free_and_product(x):
    free = ri.fisher_norms(
      fn,
      x,
      method="matrix_free",
      num_steps=10,
      num_probes=1,
      num_eigenvectors=3,
    )
    return free, ri.fisher_vector_product(fn, x, free.vectors[:, 0])

  free, product = jax.tree.map(np.asarray, free_and_product(x))
  np.testing.assert_allclose(free.values, values, rtol=1e-4)
  overlap = np.abs(np.sum(free.vectors * vectors, axis=-1))
  np.testing.assert_allclose(overlap, 1.0, atol=1e-3)
  residual = np.linalg.norm(
    product - free.values[:, :1] * free.vectors[:, 0], axis=-1
  )
  assert (residual <= free.residuals[:, 0] + 1e-5 * values[:, 0]).all()


def test_auto_goes_matrix_free_beyond_the_crossover():
  size = ri.fisher.AUTO_CLASSES

  lengths = [
    f"length={size - 1}"
    in str(
      jax.make_jaxpr(
        lambda x, c=c: ri.fisher_trace(lambda x: x @ jnp.ones((4, c)), x)
      )(jnp.ones((2, 4)))
    )
    for c in (size, size + 1)
  ]
  assert lengths == [True, False]


def first_three(x):
  return x.reshape(x.shape[0], -1)[:, :3]


@pytest.mark.parametrize(
  ("call", "error", "message"),
  [
    (
      lambda: ri.fisher_trace(3.0, jnp.zeros((2, 3))),
      TypeError,
      "Expected logits_fn to be a function",
    ),
    (
      lambda: ri.fisher_trace(first_three, jnp.zeros((2, 3), jnp.uint8)),
      TypeError,
      "Expected x to be floating point.*x / 255",
    ),
    (
      lambda: ri.fisher_trace(first_three, jnp.zeros((3,))),
      ValueError,
      "Expected x of shape",
    ),
    (
      lambda: ri.fisher_gram(lambda x: x.sum(), jnp.zeros((2, 3))),
      ValueError,
      "Expected logits_fn to return logits of shape",
    ),
    (
      lambda: ri.fisher_eigenvectors(first_three, jnp.zeros((2, 3)), k=4),
      ValueError,
      "Expected k <= 3",
    ),
    (
      lambda: ri.fisher_eigenvectors(first_three, jnp.zeros((2, 3)), k=0),
      ValueError,
      "Expected k >= 1",
    ),
    (
      lambda: ri.fisher_eigenvectors(
        first_three, jnp.zeros((2, 9)), k=5, method="matrix_free", num_steps=4
      ),
      ValueError,
      "Expected num_steps >= k=5",
    ),
    (
      lambda: ri.fisher_norms(first_three, jnp.zeros((2, 3)), method="dense"),
      ValueError,
      "Expected method to be one of 'auto', 'gram', 'matrix_free'",
    ),
    (
      lambda: ri.fisher_trace(first_three, jnp.zeros((2, 3)), batch_size=0),
      ValueError,
      "Expected batch_size >= 1",
    ),
    (
      lambda: ri.fisher_quadratic(
        first_three, jnp.zeros((2, 3)), jnp.zeros((2, 4))
      ),
      ValueError,
      "Expected v of the shape of x",
    ),
  ],
)
def test_bad_input_is_named(call, error, message):
  with pytest.raises(error, match=message):
    call()
