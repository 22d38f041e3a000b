"""Writes `golden_square.npz`: queries of the published Square attack.

    python tests/support/golden_square.py

pyautoattack 0.2.0 with torch 2.13.0 (Python 3.11) made the file: a few queries
on one colour image that is not square, each with all its random choices. The
network rates each query higher than the one before, so that each starts from
its predecessor.
"""

import pathlib

import numpy as np
import torch
from pyautoattack import square

# An l2 start with a margin and tiles of 2 x 2; windows of 9, 7, 5 and 3 (l2)
# and of 8, 6, 4 and 3 (linf).
HEIGHT, WIDTH, CHANNELS = 13, 17, 3
SHARE = 0.3
QUERIES = (0, 11, 51, 201)
EPSILON = {"linf": 0.1, "l2": 1.5}


class Recorded(square.SquareAttack):
  """The attack, recording its random choices."""

  def random_int(self, low=0, high=1, shape=(1,)):
    drawn = super().random_int(low, high, list(shape))
    self.corners.append(int(drawn))
    return drawn

  def random_choice(self, shape):
    drawn = super().random_choice(shape)
    self.signs.append(drawn.numpy())
    return drawn

  def eta(self, s):
    upright = super().eta(s)
    # The upright profile is positive above and negative below.
    self.turned.append(bool(s > 1 and upright[-1, 0] > 0))
    return upright


def run(norm: str, x: np.ndarray) -> dict[str, np.ndarray]:
  """Points [Q, H, W, C] before and after the queries, and the choices."""
  torch.manual_seed(0)
  points = []

  def predict(images):
    points.append(images.detach().numpy()[0].transpose(1, 2, 0).copy())
    return torch.tensor([[1000.0 - len(points), 0.0]])

  count = max(QUERIES) + 1
  attack = Recorded(
    predict,
    norm=norm.capitalize(),
    n_queries=count,
    eps=EPSILON[norm],
    p_init=SHARE,
    resc_schedule=False,
  )
  attack.corners, attack.signs, attack.turned = [], [], []
  images = torch.from_numpy(x.transpose(2, 0, 1)[None].copy())
  attack.init_hyperparam(images)
  attack.attack_single_run(images, torch.zeros(1, dtype=torch.long))
  rows = list(QUERIES)
  found = {
    "start": points[0],
    "start_signs": np.moveaxis(np.concatenate(attack.signs[:-count]), 1, -1),
    "before": np.array(points)[rows],
    "after": np.array(points)[[row + 1 for row in rows]],
    "corners": np.array(attack.corners).reshape(count, -1, 2)[rows],
    "signs": np.array(attack.signs[-count:]).reshape(count, CHANNELS)[rows],
  }
  if norm == "l2":
    found["start_turned"] = np.array(attack.turned[:-count])
    found["turned"] = np.array(attack.turned[-count:])[rows]
  return found


def main() -> None:
  rng = np.random.default_rng(0)
  x = rng.uniform(size=(HEIGHT, WIDTH, CHANNELS)).astype(np.float32)
  arrays = {"x": x, "queries": np.array(QUERIES), "share": np.array(SHARE)}
  for norm in EPSILON:
    arrays |= {f"{norm}_{k}": v for k, v in run(norm, x).items()}
    arrays[f"{norm}_epsilon"] = np.array(EPSILON[norm])
  np.savez_compressed(pathlib.Path(__file__).with_suffix(".npz"), **arrays)


if __name__ == "__main__":
  main()
