"""Every public computation has a program for GPUs and TPUs: made, not run."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import robust_info as ri
from robust_info import data, models, objectives
from robust_info.training import step as train_step

PLATFORMS = ("cuda", "tpu")
N, C = 4, 3
KEY = jax.random.key(0)
X = jnp.asarray(np.random.default_rng(0).uniform(size=(N, 4, 4, 1)), "f")
Y = jnp.arange(N) % C
LOGITS = jnp.asarray(np.random.default_rng(1).normal(size=(N, C)), "f")
KERNEL = jnp.ones((3, 3, 1, 2))
WEIGHTS = jnp.asarray(np.random.default_rng(2).normal(size=(32, C)), "f")


def network(x):
  hidden = jax.lax.conv_general_dilated(
    x, KERNEL, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
  )
  return jnp.tanh(hidden).reshape(len(x), -1) @ WEIGHTS


def lens(logits):
  return ri.Components(*3 * [ri.kl_divergence(logits, logits[::-1])])


def of_network(fn, *args, **options):
  return functools.partial(fn, network, **options), (X, *args)


def of_stats(fn):
  return lambda z: fn(ri.information_stats(z, Y)), (LOGITS,)


def of_groups(fn):
  def call(z):
    return fn(ri.grouped_information_stats(z, Y, Y % 2, num_groups=2))

  return call, (LOGITS,)


FREE = {"method": "matrix_free", "num_steps": 2, "num_probes": 2}
RULED = {"num_nodes": 4, "rtol": 0.1, "max_nodes": 8}
METRICS = {
  "cckl": (ri.cckl, (LOGITS, Y)),
  "coarse_fisher_norms": of_network(
    lambda f, x: ri.coarse_fisher_norms(
      lambda x: jnp.tile(f(x), 2), x, max_classes=2, num_eigenvectors=1
    )
  ),
  "disentangle_local": of_network(ri.disentangle_local, X[::-1]),
  "disentangle_path": of_network(ri.disentangle_path, X[::-1], num_nodes=4),
  "disentangle_path rtol": of_network(ri.disentangle_path, X[::-1], **RULED),
  "entropy": (ri.entropy, (LOGITS,)),
  "epsilon_lens": of_stats(lambda stats: ri.epsilon_lens(stats, stats)),
  "fisher_eigenvectors": of_network(ri.fisher_eigenvectors, k=2),
  "fisher_frobenius": of_network(ri.fisher_frobenius),
  "fisher_gram": of_network(ri.fisher_gram),
  "fisher_norms": of_network(ri.fisher_norms, num_eigenvectors=1, batch_size=2),
  "fisher_norms free": of_network(ri.fisher_norms, num_eigenvectors=1, **FREE),
  "fisher_quadratic": of_network(ri.fisher_quadratic, X),
  "fisher_rao_distance": (ri.fisher_rao_distance, (LOGITS, LOGITS[::-1])),
  "fisher_spectral_norm": of_network(
    lambda f, x: jax.grad(lambda x: ri.fisher_spectral_norm(f, x).sum())(x)
  ),
  "fisher_trace": of_network(ri.fisher_trace),
  "fisher_vector_product": of_network(ri.fisher_vector_product, X),
  "fit_temperature": (ri.fit_temperature, (LOGITS, Y)),
  "grouped_information_stats": of_groups(lambda stats: stats),
  "information_stats": of_stats(lambda stats: stats),
  "kl_divergence": (ri.kl_divergence, (LOGITS, LOGITS[::-1])),
  "label_information": (ri.label_information, (LOGITS, Y)),
  "lautum_information": (ri.lautum_information, (LOGITS,)),
  "lens_matrices": (
    lambda z: ri.lens_matrices(lens(z), Y, Y[::-1], jnp.ones((C, C))),
    (LOGITS,),
  ),
  "lens_means": (lambda z: ri.lens_means(lens(z), jnp.ones(())), (LOGITS,)),
  "merge_across": of_groups(
    jax.vmap(lambda stats: ri.merge_across(stats, "data"), axis_name="data")
  ),
  "merge_groups": of_groups(ri.merge_groups),
  "mutual_information": (ri.mutual_information, (LOGITS,)),
  "pair_mean": (ri.pair_mean, (LOGITS[:, 0], LOGITS[:, 1], jnp.zeros(()))),
  "path_fisher_estimate": of_network(ri.path_fisher_estimate, X[::-1], KEY),
  "pointwise_information": (ri.pointwise_information, (LOGITS,)),
  "sample_cross_pairs": (
    functools.partial(ri.sample_cross_pairs, num_pairs=5),
    (KEY, Y),
  ),
  "summarize": of_stats(ri.summarize),
}
# Run on the host, on the results of the functions above.
ON_THE_HOST = {"jackknife", "lens_errors", "self_check"}

SHORT = {"epsilon": 0.1, "num_steps": 2}
ATTACKS = {
  "apgd": of_network(ri.attacks.apgd, Y, KEY, **SHORT),
  "apgd l2": of_network(ri.attacks.apgd, Y, KEY, norm="l2", **SHORT),
  "apgd_targeted": of_network(ri.attacks.apgd_targeted, Y, KEY, **SHORT),
  "fab": of_network(ri.attacks.fab, Y, KEY, **SHORT),
  "fab_targeted": of_network(ri.attacks.fab_targeted, Y, KEY, **SHORT),
  "fgsm": of_network(ri.attacks.fgsm, Y, KEY, epsilon=0.1),
  "fisher_pgd": of_network(ri.attacks.fisher_pgd, Y, **SHORT),
  "kl_pgd": of_network(ri.attacks.kl_pgd, KEY, **SHORT),
  "pgd": of_network(ri.attacks.pgd, Y, KEY, norm="l2", **SHORT),
  "square": of_network(ri.attacks.square, Y, KEY, epsilon=0.1, num_queries=4),
}
# Loops of the host over the programs of those above.
FROM_THE_HOST = {"auto_attack", "sanity_report"}


def functions(module):
  members = ((name, getattr(module, name)) for name in module.__all__)
  return {
    name
    for name, member in members
    if callable(member) and not inspect.isclass(member)
  }


def test_no_public_function_is_forgotten():
  tried = {name.split()[0] for name in METRICS}
  assert tried | ON_THE_HOST == functions(ri)
  tried = {name.split()[0] for name in ATTACKS}
  assert tried | FROM_THE_HOST == functions(ri.attacks)


@pytest.mark.parametrize("name", [*METRICS, *ATTACKS])
def test_metrics_and_attacks_lower(name):
  fn, args = {**METRICS, **ATTACKS}[name]
  assert jax.jit(fn).trace(*args).lower(lowering_platforms=PLATFORMS)


def test_a_training_step_lowers():
  model = models.create("mlp", num_classes=C, hidden_sizes=(5,))
  optimizer = optax.sgd(0.1, momentum=0.9)
  state = train_step.create_state(
    model, optimizer, seed=0, image_shape=X.shape[1:]
  )
  batch = data.Batch(
    image=np.zeros(X.shape, np.uint8),
    label=np.asarray(Y, np.int32),
    mask=np.ones(N, bool),
  )
  objective = functools.partial(objectives.pgd, **SHORT)
  step = train_step.make_train_step(model, optimizer, objective, num_steps=3)
  assert step.trace(state, batch).lower(lowering_platforms=PLATFORMS)
