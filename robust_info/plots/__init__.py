"""Figures of the metrics, from the results that they return.

    figure = ri.plots.components(local=means, epsilon=ball)
    figure.savefig("components.svg")

Every function takes the results of one network, or a dictionary from names to
results, one per network; a network has one colour, in the order of the names.
The functions that take a report show all of its runs. All return a
`matplotlib.figure.Figure`, which a notebook shows as the last line of a cell.
They need the extra `plots` (matplotlib), imported at the first call, and leave
pyplot, its backend and all settings of matplotlib alone.

Names and other texts are drawn as they are, shortened where they are long
(different ones stay different), and never as mathematics. Arguments common to
all functions:

- `theme`: "light" or "dark", the colours of the page.
- `threat`: attack and ball as text for a title, for example "PGD-20, linf 0.1".

Shapes: `N` examples, `C` classes, `P` pairs. Information is in nats.
"""

from robust_info.plots._attack_strength import attack_strength
from robust_info.plots._cckl_matrix import cckl_matrix
from robust_info.plots._components import components
from robust_info.plots._examples import examples
from robust_info.plots._robustness_curve import robustness_curve
from robust_info.plots._training_curves import training_curves

__all__ = [
  "attack_strength",
  "cckl_matrix",
  "components",
  "examples",
  "robustness_curve",
  "training_curves",
]
