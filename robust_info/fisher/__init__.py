"""Fisher information of a network's predictions with respect to its input.

`norms` of the metric at each input, its `products` with vectors, and `coarse`
norms that merge the improbable classes.
"""

from robust_info.fisher._routes import AUTO_CLASSES, FisherNorms
from robust_info.fisher.coarse import coarse_fisher_norms
from robust_info.fisher.norms import (
  fisher_eigenvectors,
  fisher_frobenius,
  fisher_gram,
  fisher_norms,
  fisher_spectral_norm,
  fisher_trace,
)
from robust_info.fisher.products import fisher_quadratic, fisher_vector_product

__all__ = [
  "AUTO_CLASSES",
  "FisherNorms",
  "coarse_fisher_norms",
  "fisher_eigenvectors",
  "fisher_frobenius",
  "fisher_gram",
  "fisher_norms",
  "fisher_quadratic",
  "fisher_spectral_norm",
  "fisher_trace",
  "fisher_vector_product",
]
