"""How much of a classifier's performance is fragile, how much is robust?

An overview, with all values in nats; `logits_fn` is a function [N, ...] ->
[N, C], best a `jax.tree_util.Partial(apply, variables)`, for which functions
compile once:

* `kl_divergence`, `entropy`, `fisher_rao_distance`: of predictions (logits).
* `mutual_information`, `lautum_information`, `label_information`, `cckl`: of a
  batch; `information_stats` and `summarize`: of a data set, in one pass.
* `fisher_trace`, `fisher_frobenius`, `fisher_spectral_norm`,
  `fisher_eigenvectors`, ...: Fisher information in input space.
* `disentangle_local`, `disentangle_path`: Fisher part and rest of a divergence,
  on pairs drawn by `sample_cross_pairs`; `lens_means`, `lens_matrices`: over
  all pairs, with an error; `jackknife`: error over examples.
* `attacks`, `epsilon_lens`: information that an adversary can remove, and the
  remainder.
* `plots`: figures of these results; needs the extra `plots`.
* `robust_info.adapters`, imported by that name: `logits_fn` of networks of
  Flax, Equinox, Haiku, Keras and PyTorch.
* `self_check`: tests whether this device and JAX release compute correctly.

The metrics need only jax, jaxtyping and numpy. Import training and evaluation
(`robust_info.training`, `robust_info.evaluation`, ...) by their full names;
they need the extra `train`.
"""

from robust_info import attacks, plots
from robust_info.fisher import (
  FisherNorms,
  coarse_fisher_norms,
  fisher_eigenvectors,
  fisher_frobenius,
  fisher_gram,
  fisher_norms,
  fisher_quadratic,
  fisher_spectral_norm,
  fisher_trace,
  fisher_vector_product,
)
from robust_info.information import (
  InformationStats,
  InformationSummary,
  Jackknife,
  cckl,
  entropy,
  fisher_rao_distance,
  fit_temperature,
  grouped_information_stats,
  information_stats,
  jackknife,
  kl_divergence,
  label_information,
  lautum_information,
  merge_across,
  merge_groups,
  mutual_information,
  pointwise_information,
  summarize,
)
from robust_info.lenses import (
  CoarseLens,
  Components,
  EpsilonComponents,
  EpsilonLens,
  LensErrors,
  LensMatrices,
  LensMeans,
  PairMean,
  disentangle_local,
  disentangle_path,
  epsilon_lens,
  lens_errors,
  lens_matrices,
  lens_means,
  pair_mean,
  path_fisher_estimate,
  sample_cross_pairs,
)
from robust_info.runtime._version import __version__
from robust_info.runtime.self_check import SelfCheckError, self_check

__all__ = [
  "CoarseLens",
  "Components",
  "EpsilonComponents",
  "EpsilonLens",
  "FisherNorms",
  "InformationStats",
  "InformationSummary",
  "Jackknife",
  "LensErrors",
  "LensMatrices",
  "LensMeans",
  "PairMean",
  "SelfCheckError",
  "__version__",
  "attacks",
  "cckl",
  "coarse_fisher_norms",
  "disentangle_local",
  "disentangle_path",
  "entropy",
  "epsilon_lens",
  "fisher_eigenvectors",
  "fisher_frobenius",
  "fisher_gram",
  "fisher_norms",
  "fisher_quadratic",
  "fisher_rao_distance",
  "fisher_spectral_norm",
  "fisher_trace",
  "fisher_vector_product",
  "fit_temperature",
  "grouped_information_stats",
  "information_stats",
  "jackknife",
  "kl_divergence",
  "label_information",
  "lautum_information",
  "lens_errors",
  "lens_matrices",
  "lens_means",
  "merge_across",
  "merge_groups",
  "mutual_information",
  "pair_mean",
  "path_fisher_estimate",
  "plots",
  "pointwise_information",
  "sample_cross_pairs",
  "self_check",
  "summarize",
]
