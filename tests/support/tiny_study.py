"""A study of two small runs."""

from configs import digits
from robust_info import study
from robust_info.study import questions


def get_study():
  """Two recipes and a seed, one epoch of logistic regression."""
  return study.Study(
    title="Tiny",
    cases=(
      study.Case(
        name="digits",
        base=digits.get_config,
        changes={
          "model.name": "logistic",
          "train.num_epochs": 1,
          "train.validate_at": (1, 2, 4),
          "evaluation.batch_size": 50,
          "evaluation.epsilon_grid": (0.0,),
          "evaluation.num_steps": 2,
          "evaluation.num_pairs": 16,
          "evaluation.num_coarse_pairs": 32,
          "evaluation.num_nodes": 4,
          "evaluation.sanity_examples": 8,
        },
        recipes=(
          study.Recipe("standard"),
          study.Recipe("smooth", {"objective.label_smoothing": 0.1}),
        ),
        seeds=(0,),
        num_examples=100,
      ),
    ),
    questions=(questions.Characterises(), questions.Rises()),
  )
