"""One small call of every public function, by its name."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

import robust_info as ri

N, C, SHAPE = 12, 4, (3, 2, 1)
LABELS = np.arange(N, dtype=np.int32) % C
GROUPS = np.arange(N, dtype=np.int32) % 3
DELETED = np.linspace(1, 2, 3, dtype=np.float32)


@functools.cache
def arrays():
  rng = np.random.default_rng(0)
  shapes = {"x": (N, *SHAPE), "other": (N, *SHAPE), "first": (6, 5)}
  shapes["second"] = (5, C)
  return {
    name: rng.uniform(size=shape).astype(np.float32)
    for name, shape in shapes.items()
  }


def network(x):
  """Computes in float32 for inputs of every type, as networks do."""
  x = x.astype(jnp.float32)
  first, second = (jnp.asarray(arrays()[k]) for k in ("first", "second"))
  return jnp.tanh(x.reshape(x.shape[0], len(first)) @ first) @ second


def calls(x, other):
  """Name -> call, for the functions that may be traced."""
  key = jax.random.key(0)
  attacked = functools.partial(_attacked, x, key)
  logits, logits_other = network(x), network(other)
  stats = functools.partial(ri.information_stats, logits, LABELS)

  def grouped():
    return ri.grouped_information_stats(logits, LABELS, GROUPS, num_groups=3)

  def pairs():
    return ri.disentangle_path(network, x, other, num_nodes=4)

  def coarse():
    return ri.CoarseLens(pairs(), pairs())

  lanczos = {"method": "matrix_free", "num_steps": 3}
  return {
    "cckl": lambda: ri.cckl(logits, LABELS),
    "coarse_fisher_norms": lambda: ri.coarse_fisher_norms(
      network, x, max_classes=2, batch_size=5
    ),
    "disentangle_local": lambda: ri.disentangle_local(network, x, other),
    "disentangle_path": lambda: (
      pairs(),
      *(
        ri.disentangle_path(network, x, other, num_nodes=4, **options)
        for options in (
          {"method": "jvp"},
          {"method": "extrapolated"},
          {"rtol": 0.1, "max_nodes": 8},
        )
      ),
    ),
    "entropy": lambda: ri.entropy(logits),
    "epsilon_lens": lambda: ri.epsilon_lens(
      stats(), ri.information_stats(logits_other, LABELS)
    ),
    "fisher_eigenvectors": lambda: (
      ri.fisher_eigenvectors(network, x, k=2),
      ri.fisher_eigenvectors(network, x, k=2, **lanczos),
    ),
    "fisher_frobenius": lambda: ri.fisher_frobenius(network, x),
    "fisher_gram": lambda: ri.fisher_gram(network, x),
    "fisher_norms": lambda: (
      ri.fisher_norms(network, x, num_eigenvectors=2, batch_size=5),
      ri.fisher_norms(network, x, num_eigenvectors=2, num_probes=2, **lanczos),
    ),
    "fisher_quadratic": lambda: ri.fisher_quadratic(network, x, other),
    "fisher_rao_distance": lambda: ri.fisher_rao_distance(logits, logits_other),
    "fisher_spectral_norm": lambda: ri.fisher_spectral_norm(network, x),
    "fisher_trace": lambda: (
      ri.fisher_trace(network, x),
      ri.fisher_trace(network, x, num_probes=2, **lanczos),
    ),
    "fisher_vector_product": lambda: ri.fisher_vector_product(
      network, x, other
    ),
    "fit_temperature": lambda: ri.fit_temperature(logits, LABELS),
    "grouped_information_stats": grouped,
    "information_stats": stats,
    "kl_divergence": lambda: ri.kl_divergence(logits, logits_other),
    "label_information": lambda: ri.label_information(logits, LABELS),
    "lautum_information": lambda: ri.lautum_information(logits),
    "lens_errors": lambda: ri.lens_errors(
      pairs(),
      GROUPS,
      GROUPS[::-1],
      DELETED,
      coarse=coarse(),
      coarse_groups=(GROUPS, GROUPS[::-1]),
    ),
    "lens_matrices": lambda: ri.lens_matrices(
      pairs(),
      LABELS,
      LABELS[::-1],
      ri.summarize(stats()).cckl_matrix,
      coarse=coarse(),
      coarse_labels=(LABELS, LABELS[::-1]),
    ),
    "lens_means": lambda: ri.lens_means(
      pairs(), ri.cckl(logits, LABELS), coarse=coarse()
    ),
    "merge_groups": lambda: ri.merge_groups(grouped()),
    "mutual_information": lambda: ri.mutual_information(logits),
    "pair_mean": lambda: ri.pair_mean(logits[:, 0], logits[:, 1], 0.5),
    "path_fisher_estimate": lambda: ri.path_fisher_estimate(
      network, x, other, key
    ),
    "pointwise_information": lambda: (
      ri.pointwise_information(logits),
      ri.pointwise_information(logits, stats=stats(), where=LABELS < 3),
    ),
    "sample_cross_pairs": lambda: ri.sample_cross_pairs(
      key, LABELS, num_pairs=5
    ),
    "summarize": lambda: ri.summarize(
      ri.InformationStats.identity(C) + stats()
    ),
    "apgd": lambda: attacked("apgd", num_steps=3),
    "apgd_targeted": lambda: attacked("apgd_targeted", num_steps=3),
    "fab": lambda: attacked("fab", num_steps=2),
    "fab_targeted": lambda: attacked("fab_targeted", num_steps=2),
    "fgsm": lambda: attacked("fgsm"),
    "fisher_pgd": lambda: ri.attacks.fisher_pgd(
      network, x, LABELS, epsilon=0.1
    ),
    "kl_pgd": lambda: ri.attacks.kl_pgd(
      network, x, key, epsilon=0.1, num_steps=2
    ),
    "pgd": lambda: [
      attacked("pgd", num_steps=2, **options)
      for options in (
        {"restarts": 2, "momentum": 0.5, "keep": "worst"},
        {"norm": "l2", "loss": "dlr"},
        {"norm": "l1", "loss": "margin", "targeted": True},
      )
    ],
    "square": lambda: attacked("square", num_queries=5),
  }


def _attacked(x, key, name, **options):
  attack = getattr(ri.attacks, name)
  return attack(network, x, LABELS, key, epsilon=0.1, **options)
