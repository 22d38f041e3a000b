r"""The two objectives on lenses, at settings other than their defaults.

  python -m robust_info.study configs/study/lenses.py --output=runs/lenses

The table of `docs/guide/training.md`: five runs of the digits, seed 0. It asks
no question; look at `tables/recipes.md`.
"""

from configs import digits
from robust_info import study

_PAIR = {"objective.name": "pair_lens"}
_EPSILON = {"objective.name": "epsilon_lens"}


def get_study() -> study.Study:
  """The study."""
  return study.Study(
    title="Objectives on lenses at other settings",
    cases=(
      study.Case(
        name="digits",
        base=digits.get_config,
        changes={
          "train.validate_every": 40,
          "evaluation.attack": "apgd",
          "evaluation.batch_size": 125,
          "evaluation.epsilon_grid": (0.0, 0.15),
          "evaluation.num_pairs": 2048,
        },
        recipes=(
          study.Recipe(
            "pair_non_robust=10", {**_PAIR, "objective.pair_non_robust": 10.0}
          ),
          study.Recipe(
            "pair_reward=1", {**_PAIR, "objective.pair_reward": 1.0}
          ),
          study.Recipe(
            "pair_non_robust=pair_reward=10",
            {
              **_PAIR,
              "objective.pair_non_robust": 10.0,
              "objective.pair_reward": 10.0,
            },
          ),
          study.Recipe(
            "lens_quantity=label_information",
            {**_EPSILON, "objective.lens_quantity": "label_information"},
          ),
          study.Recipe(
            "lens_quantity=cckl",
            {
              **_EPSILON,
              "objective.lens_quantity": "cckl",
              "objective.lens_coefficient": 0.3,
            },
          ),
        ),
        seeds=(0,),
      ),
    ),
  )
