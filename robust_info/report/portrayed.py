"""Single examples of a report, with everything that is shown of them.

Shapes: `R` runs, `N` examples, `C` classes.
"""

import dataclasses

import numpy as np
from jaxtyping import Float


@dataclasses.dataclass(frozen=True)
class Examples:
  """Images, their top Fisher eigenvectors, and an attack, for every run.

  Attributes:
    images: clean images, in [0, 1].
    eigenvectors: top eigenvectors of the Fisher information of the input; their
      signs are arbitrary.
    adversarial: attacked images.
    probabilities: predictions at the clean images.
    adversarial_probabilities: predictions at the attacked images.
    labels: N true classes.
    threat: attack and ball as text, for example "PGD-20, linf 0.1".
  """

  images: Float[np.ndarray, "N H W channels"]
  eigenvectors: Float[np.ndarray, "R N H W channels"]
  adversarial: Float[np.ndarray, "R N H W channels"]
  probabilities: Float[np.ndarray, "R N C"]
  adversarial_probabilities: Float[np.ndarray, "R N C"]
  labels: list[int]
  threat: str
