"""Lenses: split a divergence into a non-robust (Fisher) part and a robust rest.

`local` measures at one end of a pair of inputs, `path` along the segment
between them, `epsilon` under an attack; `pairs` draws pairs of examples, and
`estimators` average over all pairs.
"""

from robust_info.lenses.components import Components
from robust_info.lenses.control_variates import PairMean, pair_mean
from robust_info.lenses.epsilon import (
  EpsilonComponents,
  EpsilonLens,
  epsilon_lens,
)
from robust_info.lenses.estimators import (
  CoarseLens,
  LensErrors,
  LensMatrices,
  LensMeans,
  lens_errors,
  lens_matrices,
  lens_means,
)
from robust_info.lenses.local import disentangle_local
from robust_info.lenses.pairs import sample_cross_pairs
from robust_info.lenses.path import disentangle_path, path_fisher_estimate

__all__ = [
  "CoarseLens",
  "Components",
  "EpsilonComponents",
  "EpsilonLens",
  "LensErrors",
  "LensMatrices",
  "LensMeans",
  "PairMean",
  "disentangle_local",
  "disentangle_path",
  "epsilon_lens",
  "lens_errors",
  "lens_matrices",
  "lens_means",
  "pair_mean",
  "path_fisher_estimate",
  "sample_cross_pairs",
]
