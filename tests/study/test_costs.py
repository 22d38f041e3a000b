"""The cost of objectives, against operations of the compiled gradient."""

import functools

import jax
import jax.numpy as jnp
import pytest

from robust_info import config, data, objectives
from robust_info.study import costs

KEY = jax.random.key(0)
N, WIDTH, DEPTH, C = 16, 96, 6, 4


@functools.cache
def operations(**settings):
  """Operations of one gradient of an objective for a deep network."""
  asked = config.from_config_dict({"objective": settings})
  objective = objectives.create(asked.objective)
  batch = data.Batch(
    image=jnp.full((N, WIDTH), 0.5),
    label=jnp.arange(N) % C,
    mask=jnp.ones(N, bool),
  )

  def apply(params, x):
    for weights in params[:-1]:
      x = jnp.tanh(x @ weights)
    return x @ params[-1]

  def loss(params):
    network = objectives.Network(
      {"params": params},
      lambda v, x: apply(v["params"], x),
      lambda v, x, where: (apply(v["params"], x), {}),
    )
    return jnp.sum(objective(network, batch, KEY, progress=0.5).loss)

  params = [jnp.ones((WIDTH, WIDTH))] * DEPTH + [jnp.ones((WIDTH, C))]
  program = jax.jit(jax.grad(loss)).lower(params).compile()
  return asked, program.cost_analysis()["flops"]


@pytest.mark.parametrize(
  "settings",
  [
    {"name": "pgd", "num_steps": 1},
    {"name": "trades", "num_steps": 1},
    {"name": "mart", "num_steps": 1},
    {"name": "kl"},
    {"name": "n_fgsm"},
    {"name": "fgsm_rs", "fgsm_alignment": 0.5},
    {"name": "fisher"},
    {"name": "fisher", "fisher_estimator": "label"},
    {"name": "gradient_norm"},
    {"name": "gradient_norm", "gradient_estimator": "finite_difference"},
    {"name": "pair_lens"},
    {"name": "epsilon_lens", "num_steps": 1},
  ],
  ids=lambda settings: "-".join(map(str, settings.values())),
)
def test_costs_are_operations_in_units_of_a_standard_gradient(settings):
  asked, found = operations(**settings)
  _, standard = operations(name="standard")
  assert costs.gradients(asked) == pytest.approx(found / standard, rel=0.15)
