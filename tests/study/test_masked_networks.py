"""The masks of configs/study/masked.py hide gradients, and nothing else."""

import functools
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
  """The untrained networks by recipe, in both modes, their variables, images.

  Each function is compiled once, for all tests.
  """
  with registry.using(()):
    study = plan.load(FILE)
    source = data.load("digits")
    built = {}
    for recipe in ("standard", *study.questions[0].masked):
      asked = plan.configuration(study.cases[0], recipe, 0)
      built[recipe] = models.from_config(setup.resolve(asked, source).model)
  modes = {
    n: (models.apply_fn(m), models.train_fn(m)) for n, m in built.items()
  }

  @jax.jit
  def initialise(key):
    return {n: models.init(m, key, (8, 8, 1)) for n, m in built.items()}

  @jax.jit
  def logits(variables, x):
    """Logits by recipe in both modes, and derivatives of `standard`."""
    where = jnp.ones(len(x), bool)
    evaluated = {n: f(variables[n], x) for n, (f, _) in modes.items()}
    trained = {n: f(variables[n], x, where)[0] for n, (_, f) in modes.items()}
    plain, own = modes["standard"][0], variables["standard"]
    slope = jax.vmap(jax.jacrev(lambda x: plain(own, x[None])[0]))(x)
    return evaluated, trained, slope

  @jax.jit
  def traces(variables, x):
    """Traces of the Fisher information of the masks on inputs, [N]."""
    return {
      n: fisher.fisher_norms(lambda x, f=f, v=variables[n]: f(v, x), x).trace
      for n, (f, _) in modes.items()
      if n != "saturated"
    }

  variables = initialise(jax.random.key(0))
  images = np.asarray(source.test.images[:25], np.float32) / np.float32(255)
  functions = (functools.partial(f, variables) for f in (logits, traces))
  return variables, *functions, images


def test_trained_as_the_plain_network(networks):
  variables, logits, _, images = networks
  # Between the images of 8 bits, where every mask changes the logits.
  evaluated, trained, _ = logits(images + np.float32(0.3 / 255))
  expected = trained["standard"]
  for name, own in variables.items():
    jax.tree.map(np.testing.assert_array_equal, own, variables["standard"])
    np.testing.assert_allclose(trained[name], expected, atol=1e-6)
    if name != "standard":
      assert np.abs(evaluated[name] - expected).max() > 1e-4, name


@pytest.mark.parametrize("size", [0.0, 0.15])
def test_decisions_are_those_of_inputs_within_the_deviation(networks, size):
  _, logits, _, images = networks
  noise = np.random.default_rng(1).normal(size=images.shape)
  evaluated, _, slope = logits(images + (size * noise).astype(np.float32))
  plain = evaluated["standard"]
  # Logits of a deviation of at most 0.005 per pixel, to first order and a half.
  bound = 1.5 * 0.005 * np.abs(slope).sum((2, 3, 4))
  for name, values in evaluated.items():
    if name == "saturated":
      # A logit near 0 has the rounding of the largest.
      scale = float(np.abs(plain).max())
      np.testing.assert_allclose(values, 100 * plain, atol=1e-3 * scale)
    else:
      assert (np.abs(values - plain) <= bound + 1e-5).all(), name


def test_norms_change_as_derived(networks):
  _, _, traces, images = networks
  norms = jax.tree.map(np.asarray, traces(images))
  plain = norms["standard"]
  assert (norms["quantised"] == 0).all()
  assert (norms["flattened"] < 1e-6 * plain).all()
  np.testing.assert_allclose(norms["rippled"] / plain, SLOPE**2, rtol=0.01)
  # Between the images of 8 bits, gradients are back.
  between = traces(images + np.float32(0.5 / 255))["flattened"]
  assert (np.asarray(between) > plain).all()
