"""APGD-CE of both sides from the same starts: is a difference more than luck?

    python -m benchmarks.parity_starts FOLDER --norm l2 --epsilon 2.5

Uses the FOLDER and the environment of `parity_autoattack theirs`. Prints the
robust accuracy of both sides, and the number of examples that are robust on one
side only.
"""

import argparse
import logging
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import small_networks
from robust_info.attacks import _apgd, ascent, initial, methods

_STEPS = 100


def ours(params, x, y, start, norm, epsilon):
  """[N] bool, the examples left."""
  method = _apgd.label_method(
    "cross_entropy", norm=norm, num_steps=_STEPS, low=0.0, high=1.0
  )
  numbers = jnp.arange(len(y))
  keys = jax.vmap(jax.random.key)(numbers)
  tried = methods.Try(x, y, jnp.zeros_like(y), jnp.zeros_like(numbers), keys)
  state = method.start(tried, epsilon)._replace(
    x_adv=start, x_before=start, x_best=start, x_found=start
  )

  @jax.jit
  def step(params, state):
    logits_fn = jax.tree_util.Partial(small_networks.apply, params)
    return method.step(ascent.evaluator(logits_fn, None), state, epsilon, None)

  for _ in range(method.num_steps):
    state = step(params, state)
  return ~np.asarray(state.found)


def theirs(params, x, y, start, norm, epsilon):
  """The same by pyautoattack."""
  import torch
  from pyautoattack import autopgd_base

  module = small_networks.torch_module(params)
  images, labels = small_networks.torch_data(x, y)
  attack = autopgd_base.APGDAttack(
    module,
    n_iter=_STEPS,
    norm=norm.capitalize(),
    eps=epsilon,
    device=str(small_networks.torch_device()),
    logger=logging.getLogger(__name__),
  )
  attack.init_hyperparam(images)
  begin, _ = small_networks.torch_data(start, y)
  *_, points = attack.attack_single_run(images, labels, x_init=begin)
  with torch.no_grad():
    return (module(points).argmax(1) == labels).cpu().numpy()


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("folder", type=pathlib.Path)
  parser.add_argument("--points", type=int, default=400)
  parser.add_argument("--norm", choices=("linf", "l2"), default="linf")
  parser.add_argument("--epsilon", type=float, default=0.1)
  parser.add_argument("--seed", type=int, default=0, help="Of the starts.")
  options = parser.parse_args()
  params, x, y = small_networks.load(options.folder / "case.npz")
  x, y = x[: options.points], y[: options.points].astype(np.int32)
  right = np.asarray(small_networks.apply(params, x)).argmax(1) == y
  x, y = jnp.asarray(x[right]), jnp.asarray(y[right])
  keys = jax.random.split(jax.random.key(options.seed), len(y))
  offsets = initial.surface(keys, x, options.epsilon, options.norm)
  setting = (
    params,
    x,
    y,
    jnp.clip(x + offsets, 0, 1),
    options.norm,
    options.epsilon,
  )
  left, also = ours(*setting), theirs(*setting)
  print(
    f"{len(y)} examples classified correctly; left by ours {left.sum()}, by "
    f"theirs {also.sum()}; by ours only {(left & ~also).sum()}, by theirs only "
    f"{(also & ~left).sum()}"
  )


if __name__ == "__main__":
  main()
