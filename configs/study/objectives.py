r"""Every objective at its defaults, on the digits and on MNIST.

  python -m robust_info.study configs/study/objectives.py \
    --output=runs/objectives --case=digits

The tables of `docs/results/objectives.md`: look at `tables/recipes.md`. It asks
no question. MNIST is read from TFDS_DATA_DIR.
"""

from collections.abc import Callable

from configs import digits, mnist
from robust_info import config as config_lib
from robust_info import study

_RECIPES = (
  *(
    study.Recipe(name, {"objective.name": name})
    for name in config_lib.OBJECTIVES
  ),
  study.Recipe(
    "pgd_awp_ema",
    {
      "objective.name": "pgd",
      "objective.awp_gamma": 5e-3,
      "train.ema_decay": 0.95,
    },
  ),
)
_MEASURED = {
  "evaluation.attack": "apgd",
  "evaluation.batch_size": 125,
  "evaluation.num_pairs": 2048,
}


def _case(
  name: str, base: Callable, num_examples: int, changes: dict
) -> study.Case:
  return study.Case(
    name=name,
    base=base,
    changes={**_MEASURED, **changes},
    recipes=_RECIPES,
    seeds=(0, 1, 2),
    num_examples=num_examples,
  )


def get_study() -> study.Study:
  """The study."""
  return study.Study(
    title="Every objective at its defaults",
    cases=(
      _case(
        "digits",
        digits.get_config,
        500,
        {
          "train.validate_every": 40,
          "evaluation.epsilon_grid": (0.0, 0.15),
        },
      ),
      _case(
        "mnist",
        mnist.get_config,
        250,
        {
          "objective.num_steps": 5,
          "objective.step_size": 0.4,
          "train.num_epochs": 1,
          "evaluation.epsilon_grid": (0.0, 0.1),
          "evaluation.validation_examples": 250,
        },
      ),
    ),
  )
