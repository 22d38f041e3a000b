"""The masks of configs/study/masked.py hide gradients, and nothing else."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robust_info import data, fisher, models
from robust_info.config import registry
from robust_info.study import plan
from robust_info.training import setup

FILE = pathlib.Path(__file__).parents[2] / "configs" / "study" / "masked.py"
SLOPE = 1 + 0.005 * 2 * np.pi * 255


@pytest.fixture(scope="module")
def networks():
  """Logits of the untrained networks by recipe, in both modes, and images."""
  with registry.using(()):
    study = plan.load(FILE)
    source = data.load("digits")
    found = {}
    for recipe in ("standard", *study.questions[0].masked):
      asked = plan.configuration(study.cases[0], recipe, 0)
      model = models.from_config(setup.resolve(asked, source).model)
      variables = models.init(model, jax.random.key(0), (8, 8, 1))
      found[recipe] = (
        models.apply_fn(model),
        models.train_fn(model),
        variables,
      )
  images = jnp.asarray(source.test.images[:50], jnp.float32) / 255
  return found, images


def test_trained_as_the_plain_network(networks):
  found, images = networks
  # Between the images of 8 bits, where every mask changes the logits.
  x = images + 0.3 / 255
  where = jnp.ones(len(x), bool)
  _, plain, variables = found["standard"]
  expected = plain(variables, x, where)[0]
  for name, (masked, train, own) in found.items():
    jax.tree.map(np.testing.assert_array_equal, own, variables)
    np.testing.assert_allclose(train(own, x, where)[0], expected, atol=1e-6)
    if name != "standard":
      assert jnp.abs(masked(own, x) - expected).max() > 1e-4, name


@pytest.mark.parametrize("size", [0.0, 0.15])
def test_decisions_are_those_of_inputs_within_the_deviation(networks, size):
  found, images = networks
  x = images + size * jax.random.normal(jax.random.key(1), images.shape)
  apply, _, variables = found["standard"]
  logits = apply(variables, x)
  slope = jax.jacrev(lambda x: apply(variables, x[None])[0])
  # Logits of a deviation of at most 0.005 per pixel, to first order and a half.
  bound = 1.5 * 0.005 * jnp.abs(jax.vmap(slope)(x)).sum((2, 3, 4))
  for name, (masked, _, own) in found.items():
    values = masked(own, x)
    if name == "saturated":
      # A logit near 0 has the rounding of the largest.
      scale = float(jnp.abs(logits).max())
      np.testing.assert_allclose(values, 100 * logits, atol=1e-3 * scale)
    else:
      assert (jnp.abs(values - logits) <= bound + 1e-5).all(), name


def test_norms_change_as_derived(networks):
  found, images = networks
  norms = {
    name: np.asarray(
      fisher.fisher_norms(lambda x, f=f, v=v: f(v, x), images).trace
    )
    for name, (f, _, v) in found.items()
  }
  plain = norms["standard"]
  assert (norms["quantised"] == 0).all()
  assert (norms["flattened"] < 1e-6 * plain).all()
  np.testing.assert_allclose(norms["rippled"] / plain, SLOPE**2, rtol=0.01)
  # Between the images of 8 bits, gradients are back.
  f, _, v = found["flattened"]
  between = fisher.fisher_norms(lambda x: f(v, x), images + 0.5 / 255).trace
  assert (np.asarray(between) > plain).all()
