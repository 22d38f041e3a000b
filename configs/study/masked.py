r"""Networks that mask their gradients: which numbers see through a mask?

  python -m robust_info.study configs/study/masked.py --output=runs/masked

A mask is put before or behind the trained network of `standard`, at evaluation
only, so that both have the same weights. No mask moves an input by more than
0.005 or changes the order of the logits: what remains under an attack that sees
through it is the same. The masks:

* `quantised`: pixels rounded to 8 bits (the simplest of the "shattered
  gradients" of Athalye et al. 2018): every gradient is 0;
* `flattened`, ours: `x - sin(2 pi 255 x) / (2 pi 255)`, a smooth, increasing
  function of each pixel with `k/255` as fixed points, at which its slope is 0:
  at every image of 8 bits, and only there, the gradient vanishes;
* `rippled`, ours: `x + 0.005 sin(2 pi 255 x)`: the slope is 9 at images of 8
  bits, and between -7 and 9 elsewhere;
* `saturated`: logits times 100, as defensive distillation makes them (Papernot
  et al. 2016; Carlini and Wagner 2016): probabilities are 0 or 1 in float32.

The thresholds were chosen before the first run: a factor of 2, and five points
of robust accuracy, as in `paper.py`. `standard` and the masks are measured with
the whole of AutoAttack, since only its last attack, Square, needs no gradient;
the other networks, which are there to be ranked, with APGD-CE and APGD-T.
"""

import math
from typing import Literal

import jax
import jax.numpy as jnp

from configs import digits
from robust_info import models, study
from robust_info.models import small
from robust_info.study import questions

_STEPS = 255  # Of an 8-bit pixel.
_RIPPLE = 0.005
_SCALE = 100.0


@models.register("masked_cnn")
class MaskedCNN(small.CNN):
  """`cnn`, with the same parameters, behind a mask in evaluation mode."""

  mask: Literal["quantised", "flattened", "rippled", "saturated"] = "quantised"

  def __call__(self, x, *, train=False, where=None):
    """Maps images [N, H, W, channels] to logits [N, C]."""
    masked = not train
    if masked and self.mask != "saturated":
      x = _INPUT_MASKS[self.mask](x)
    logits = super().__call__(x, train=train, where=where)
    return _SCALE * logits if masked and self.mask == "saturated" else logits


def _quantised(x: jax.Array) -> jax.Array:
  return jnp.round(_STEPS * x) / _STEPS


def _wave(x: jax.Array) -> jax.Array:
  """`sin(2 pi 255 x)`, exact at the images, by its period."""
  steps = _STEPS * x
  return jnp.sin(2 * math.pi * (steps - jnp.round(steps)))


_INPUT_MASKS = {
  "quantised": _quantised,
  "flattened": lambda x: x - _wave(x) / (2 * math.pi * _STEPS),
  "rippled": lambda x: x + _RIPPLE * _wave(x),
}
_MASKS = (*_INPUT_MASKS, "saturated")


def get_study() -> study.Study:
  """The study."""
  whole = {"evaluation.attack": "autoattack"}
  plain = {
    f"{name}{objective}": {**changes, **own}
    for name, changes in (
      ("", {}),
      ("linear-", {"model.activation": "identity"}),
      ("gelu-", {"model.activation": "gelu"}),
    )
    for objective, own in (
      ("standard", {}),
      ("pgd", {"objective.name": "pgd"}),
    )
  }
  masked = {
    name: {
      **whole,
      "model.name": "masked_cnn",
      "model.masked_cnn.mask": name,
    }
    for name in _MASKS
  }
  plain["standard"] |= whole
  return study.Study(
    title="Networks that mask their gradients",
    cases=(
      study.Case(
        name="digits",
        base=digits.get_config,
        changes={
          "train.validate_every": 1000,
          "evaluation.attack": "apgd",
          "evaluation.batch_size": 250,
          "evaluation.num_pairs": 256,
          "evaluation.num_coarse_pairs": 4096,
          "evaluation.num_nodes": 32,
          "evaluation.epsilon_grid": (0.0, 0.05, 0.1, 0.15),
          "evaluation.validation_examples": 0,
        },
        recipes=tuple(
          study.Recipe(name, changes)
          for name, changes in (plain | masked).items()
        ),
        seeds=(0, 1, 2, 3, 4),
        num_examples=250,
      ),
    ),
    questions=(
      questions.Masks(
        plain="standard", masked=_MASKS, factor=2.0, accuracy=0.05
      ),
    ),
  )
