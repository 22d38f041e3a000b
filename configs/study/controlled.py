r"""The paper's ladder, one change at a time: does non-linearity help by itself?

  python -m robust_info.study configs/study/controlled.py \
    --output=runs/controlled

The table of arXiv:1906.02494 goes from "pure linear" over "half linear" and
"normal" to residual networks, and changes pools, activation, depth, width and
BatchNorm on its way. Here each shape is trained without and with ReLU, and
nothing else differs between the two:

* `strides`: the network of `configs/digits.py`, 5x5 convolutions of stride 2;
* `mean` and `max`: stride 1, and 2x2 pools. Without ReLU, `mean` is the "pure
  linear" network of the paper and `max` its "half linear" one, with ReLU `max`
  is its "normal" one;
* `narrow`: half the channels and hidden units;
* `deep`: two more hidden layers of the same size;
* `norm`: BatchNorm after each convolution.

Thresholds, which were chosen before the first run, are those of `paper.py`.
Only the networks at the end of training are measured.
"""

from typing import Literal

import jax.numpy as jnp
from flax import linen as nn

from configs import digits
from robust_info import models, study
from robust_info.models import layers
from robust_info.study import questions


@models.register("ladder_cnn")
class LadderCNN(nn.Module):
  """`cnn` with a choice of how it halves its images, and with BatchNorm.

  Pools halve height and width rounded down, strides rounded up.
  """

  num_classes: int
  features: tuple[int, ...]
  hidden_sizes: tuple[int, ...]
  activation: str
  mean: tuple[float, ...]
  std: tuple[float, ...]
  halving: Literal["stride", "mean", "max"] = "stride"
  batch_norm: bool = False

  @nn.compact
  def __call__(self, x, *, train=False, where=None):
    """Maps images [N, H, W, channels] to logits [N, C]."""
    x = layers.Normalize(self.mean, self.std)(x)
    stride = 2 if self.halving == "stride" else 1
    for number, features in enumerate(self.features, start=1):
      x = nn.Conv(features, (5, 5), strides=(stride, stride))(x)
      if self.batch_norm:
        x = layers.batch_norm(
          x, train=train, where=where, dtype="float32", name=f"norm{number}"
        )
      x = layers.ACTIVATIONS[self.activation](x)
      if self.halving != "stride":
        x = layers.pool(x, {"mean": jnp.mean, "max": jnp.max}[self.halving])
    return layers.Head(self.num_classes, self.hidden_sizes, self.activation)(x)


_SHAPES = {
  "strides": {},
  "mean": {"model.ladder_cnn.halving": "mean"},
  "max": {"model.ladder_cnn.halving": "max"},
  "narrow": {"model.features": (8, 16), "model.hidden_sizes": (50,)},
  "deep": {"model.hidden_sizes": (100, 100, 100)},
  "norm": {"model.ladder_cnn.batch_norm": True},
}
_ACTIVATIONS = {"linear": "identity", "relu": "relu"}
_OBJECTIVES = ("standard", "pgd")


def get_study() -> study.Study:
  """The study."""
  recipes = tuple(
    study.Recipe(
      f"{shape}-{activation}-{objective}",
      {
        **changes,
        "model.activation": _ACTIVATIONS[activation],
        "objective.name": objective,
      },
    )
    for shape, changes in _SHAPES.items()
    for objective in _OBJECTIVES
    for activation in _ACTIVATIONS
  )
  within = [
    (
      f"ReLU, {shape}, {objective}",
      f"{shape}-linear-{objective}",
      f"{shape}-relu-{objective}",
    )
    for objective in _OBJECTIVES
    for shape in _SHAPES
  ]
  # The step from "pure linear" to "half linear".
  pools = [
    (
      f"max for mean pools, linear, {objective}",
      f"mean-linear-{objective}",
      f"max-linear-{objective}",
    )
    for objective in _OBJECTIVES
  ]
  return study.Study(
    title="The paper's ladder, one change at a time",
    cases=(
      study.Case(
        name="digits",
        base=digits.get_config,
        changes={
          "model.name": "ladder_cnn",
          "train.validate_every": 1000,
          "evaluation.attack": "apgd",
          "evaluation.batch_size": 250,
          "evaluation.num_pairs": 256,
          "evaluation.num_coarse_pairs": 4096,
          "evaluation.num_nodes": 32,
          "evaluation.epsilon_grid": (0.0, 0.15),
          "evaluation.validation_examples": 0,
        },
        recipes=recipes,
        seeds=(0, 1, 2),
        num_examples=250,
      ),
    ),
    questions=(
      questions.Nonlinearity(
        pairs=(*within, *pools), share=0.05, accuracy=0.05
      ),
    ),
  )
