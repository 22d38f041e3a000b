"""One plain sentence for every number of the table."""

import re
from typing import NamedTuple

UP, DOWN, NEITHER = "higher is better", "lower is better", ""


class Meaning(NamedTuple):
  """The meaning of a number.

  Attributes:
    sentence: plain text.
    better: which direction is good; empty where neither is by itself.
  """

  sentence: str
  better: str


# Patterns of whole labels of the table; the first that fits counts.
_MEANINGS = (
  (
    "accuracy",
    "share of the test images that the network classifies correctly",
    UP,
  ),
  (
    "cross-entropy",
    "mean of minus the logarithm of the probability of the true class, in nats",
    DOWN,
  ),
  (
    "calibration error",
    "mean gap between stated confidence and the share of correct predictions",
    DOWN,
  ),
  (
    r"epsilon \S+",
    "accuracy if every image may change within this radius; each image counts "
    "at the worst point that was found",
    UP,
  ),
  (r".+ alone", "accuracy under this attack, without the others", UP),
  (
    r"after .+",
    "accuracy under the ensemble up to this attack; each attack takes the "
    "images that the ones before left",
    UP,
  ),
  (
    "each example at its worst",
    "accuracy where each image counts at its worst point of all attacks: the "
    "robust accuracy of this report",
    UP,
  ),
  (
    r"CCKL, all cross-category pairs",
    "mean KL divergence between the predictions for two images of different "
    "classes, over all pairs: how far the predictions separate the classes",
    NEITHER,
  ),
  (
    r"I\(X;Y\^\).*",
    "information that a label drawn from the prediction carries about which "
    "image it was; at most the logarithm of the number of classes",
    NEITHER,
  ),
  (
    r"L\(X;Y\^\).*",
    "the reversed divergence of the mutual information; their sum is the mean "
    "divergence over all pairs of images",
    NEITHER,
  ),
  (
    r"I\(K;Y\^\)  .*",
    "information that a label drawn from the prediction carries about the true "
    "class",
    UP,
  ),
  (
    r"H\(K\) - cross-entropy.*",
    "a lower bound on the information of an image about its class",
    UP,
  ),
  (
    r"H\(K\) .*",
    "entropy of the true classes, the largest possible label information",
    NEITHER,
  ),
  (
    "trace",
    "sensitivity of the prediction to the pixels of an image, summed over all "
    "directions; in parentheses the median",
    DOWN,
  ),
  (
    "Frobenius norm",
    "overall size of the Fisher information matrix; in parentheses the median",
    DOWN,
  ),
  (
    "largest eigenvalue",
    "sensitivity in the most fragile direction; in parentheses the median",
    DOWN,
  ),
  (
    "beside the images / at them",
    "ratio of the mean Frobenius norm at images with noise of half a step of "
    "8 bits to that at the images; far from 1, the network is flat or steep "
    "just there",
    NEITHER,
  ),
  (
    r"mean divergence \(CCKL\)",
    "mean divergence between predictions of different classes, which the lens "
    "splits in two",
    NEITHER,
  ),
  (
    "non-robust part",
    "part of the divergence due to the local sensitivity of the prediction",
    DOWN,
  ),
  (
    "robust part",
    "the rest of the divergence; it is negative where the non-robust part "
    "exceeds the whole",
    UP,
  ),
  ("non-robust share", "ratio of the non-robust part to the whole", DOWN),
  (
    "quadrature error, mean",
    "estimated numerical error of the integral along the path, per pair",
    DOWN,
  ),
  ("CCKL, robust", "CCKL that is left under the attack", UP),
  ("CCKL, non-robust", "CCKL that the attack takes away", DOWN),
  ("CCKL, non-robust share", "share of CCKL that the attack takes away", DOWN),
  (
    r"I\(K;Y\^\), robust",
    "label information that is left under the attack",
    UP,
  ),
  (
    r"I\(K;Y\^\), non-robust",
    "label information that the attack takes away",
    DOWN,
  ),
  (
    r"I\(K;Y\^\), non-robust share",
    "share of the label information that the attack takes away",
    DOWN,
  ),
)


def meaning(label: str) -> Meaning | None:
  """The meaning of a label of the table; None for labels without a number."""
  for pattern, sentence, better in _MEANINGS:
    if re.fullmatch(pattern, label):
      return Meaning(sentence, better)
  return None
