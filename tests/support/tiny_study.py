"""A study of two small runs, one with an objective of its own."""

import jax
import jax.numpy as jnp

from configs import digits
from robust_info import objectives, study
from robust_info.study import questions


@objectives.register("brier")
def brier(network, batch, key, *, progress, power: float = 2.0):
  """The Brier score."""
  del key, progress
  logits, batch_stats = network.train(batch.image, batch.mask)
  wrong = jax.nn.softmax(logits) - jax.nn.one_hot(batch.label, logits.shape[1])
  loss = jnp.sum(jnp.abs(wrong) ** power, axis=-1)
  return objectives.Outcome(loss, {"brier": loss}, batch_stats)


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
          study.Recipe(
            "brier",
            {"objective.name": "brier", "objective.brier.power": 3.0},
          ),
        ),
        seeds=(0,),
        num_examples=100,
      ),
    ),
    questions=(questions.Characterises(), questions.Rises()),
  )
