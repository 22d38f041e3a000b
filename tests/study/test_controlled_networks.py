"""The networks of configs/study/controlled.py differ in one thing at a time."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_models

from robust_info import config as config_lib
from robust_info import data, models
from robust_info.config import registry
from robust_info.study import plan
from robust_info.training import setup

FILE = pathlib.Path(__file__).parents[2] / "configs" / "study" / "controlled.py"


@pytest.fixture(scope="module")
def found():
  """The study, the resolved configurations and the networks, by recipe."""
  with registry.using(()):
    study = plan.load(FILE)
    [case] = study.cases
    source = data.load("digits")
    configs = {
      recipe.name: setup.resolve(
        plan.configuration(case, recipe.name, 0), source
      )
      for recipe in case.recipes
    }
    networks = {n: models.from_config(c.model) for n, c in configs.items()}
    yield study, configs, networks


def test_the_recipes_of_a_pair_differ_in_one_field(found):
  study, configs, _ = found
  [question] = study.questions
  compared = {recipe for pair in question.pairs for recipe in pair[1:]}
  assert compared == {*configs}
  for title, linear, other in question.pairs:
    a, b = (config_lib.flatten(configs[name]) for name in (linear, other))
    changed = {name for name in a if a[name] != b[name]}
    pools = title.startswith("max for mean")
    expected = "model.ladder_cnn.halving" if pools else "model.activation"
    assert changed == {expected}, title
  digests = {plan.digest(study.cases[0], config) for config in configs.values()}
  assert len(digests) == len(configs)


def test_with_strides_it_is_the_network_of_the_demonstration(found):
  _, configs, networks = found
  name = "strides-relu-pgd"
  config = configs[name].model
  cnn = models.create("cnn", num_classes=10, mean=config.mean, std=config.std)
  x = tiny_models.images(4, shape=(8, 8, 1))

  @jax.jit
  def both_networks(key):
    """Variables of both, and their logits."""
    pair = cnn, networks[name]
    variables = [models.init(model, key, x.shape[1:]) for model in pair]
    return variables, [
      models.apply_fn(model)(own, x)
      for model, own in zip(pair, variables, strict=True)
    ]

  variables, logits = both_networks(jax.random.key(0))
  jax.tree.map(np.testing.assert_array_equal, *variables)
  np.testing.assert_allclose(*logits, atol=1e-5)


@pytest.mark.parametrize("shape", ["mean", "max", "norm"])
@pytest.mark.parametrize("activation", ["linear", "relu"])
def test_only_without_relu_and_maximum_it_is_affine(found, shape, activation):
  model = found[2][f"{shape}-{activation}-standard"]
  x = 4 * tiny_models.images(8, shape=(9, 8, 1)) - 2

  @jax.jit
  def logits(key, x):
    variables = models.init(model, key, x.shape[1:])
    if "batch_stats" in variables:
      # Running statistics that are not those of the initialisation.
      train = models.train_fn(model)
      _, moved = train(variables, x, jnp.ones(len(x), bool))
      assert jax.tree.leaves(moved)
      variables = variables | {"batch_stats": moved}
    apply = models.apply_fn(model)
    return apply(variables, 0.5 * x[:4] + 0.5 * x[4:]), apply(variables, x)

  mixed, both = logits(jax.random.key(0), x)
  gap = np.abs(mixed - 0.5 * both[:4] - 0.5 * both[4:]).max()
  if activation == "linear" and shape != "max":
    assert gap < 1e-4
  else:
    assert gap > 1e-2


def test_narrow_and_deep_have_the_stated_sizes(found):
  def sizes(name):
    variables = jax.eval_shape(
      lambda: models.init(found[2][name], jax.random.key(0), (8, 8, 1))
    )
    return sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))

  base = 416 + 12832 + 12900 + 1010
  assert sizes("strides-relu-pgd") == base
  assert sizes("deep-relu-pgd") == base + 2 * 10100
  assert sizes("norm-relu-pgd") == base + 2 * (16 + 32)
  # 25*8+8, 25*8*16+16, 2*2*16*50+50, 50*10+10.
  assert sizes("narrow-relu-pgd") == 208 + 3216 + 3250 + 510
