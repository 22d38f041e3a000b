"""An ensemble in a process that tests kill; see test_ensemble_crash.py.

Usage: python attack_process.py UNDISTURBED FOLDER EVENT [EVENT ...]

For each event in turn, a process attacks, with its progress in FOLDER/state,
until SIGKILL at that event. Then this process completes the attack and writes
FOLDER/result.npz. It does the same in UNDISTURBED, where no process ran before
it. Every process appends its reports to progress.jsonl in its folder. Events
are

    report:K        when it reports its progress for the K-th time
    part:K          when it has written its K-th part and not yet renamed it
    seconds:S       S seconds after it first reports, if it still runs
"""

import json
import os
import pathlib
import signal
import sys
import threading
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import short_process

from robust_info import attacks

NUM_EXAMPLES, BATCH_SIZE = 40, 4
ATTACKS = ("apgd-t", "square")


def network():
  """A random two-layer network of four classes."""
  rng = np.random.default_rng(0)
  params = (
    jnp.asarray(rng.normal(size=(16, 8)), jnp.float32),
    jnp.asarray(rng.normal(size=(8, 4)), jnp.float32),
  )
  return jax.tree_util.Partial(lambda p, x: jnp.tanh(x @ p[0]) @ p[1], params)


def attack(folder, event="never:0"):
  """Attacks in this process, which dies at the event."""
  kind, _, moment = event.partition(":")
  logits_fn = network()
  x = jnp.asarray(
    np.random.default_rng(1).uniform(size=(NUM_EXAMPLES, 16)), jnp.float32
  )
  reports, parts = [], []
  replace = os.replace

  def deadly_replace(source, target):
    if pathlib.Path(target).name.startswith("part-"):
      parts.append(target)
      if kind == "part" and len(parts) == int(moment):
        die()
    replace(source, target)

  os.replace = deadly_replace
  log = os.open(
    folder / "progress.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND
  )

  def report(event):
    if kind == "seconds" and not reports:
      threading.Timer(float(moment), die).start()
    row = {
      name: getattr(event, name) for name in ("attack", "finished", "resumed")
    }
    row["process"] = os.getpid()
    os.write(log, (json.dumps(row) + "\n").encode())
    reports.append(row)
    if kind == "report" and len(reports) == int(moment):
      die()

  return attacks.auto_attack(
    logits_fn,
    x,
    jnp.argmax(logits_fn(x), axis=-1),
    jax.random.key(0),
    epsilon=0.05,
    attacks=ATTACKS,
    num_steps=12,
    num_queries=60,
    batch_size=BATCH_SIZE,
    state_dir=folder / "state",
    progress=report,
  )


def die():
  os.kill(os.getpid(), signal.SIGKILL)


def main():
  """See the module docstring."""
  undisturbed, folder = map(pathlib.Path, sys.argv[1:3])
  warnings.filterwarnings("ignore", message="os.fork")
  short_process.collect_no_garbage()
  for event in sys.argv[3:]:
    # No backend has started yet: the children share no threads.
    child = os.fork()
    if child == 0:
      attack(folder, event)
      os._exit(0)
    _, status = os.waitpid(child, 0)
    killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    if not killed and not event.startswith("seconds"):
      sys.exit(f"The process survived {event}.")
  for place in (folder, undisturbed):
    result = attack(place)
    np.savez(
      place / "result.npz",
      x_adv=result.x_adv,
      logits=result.logits,
      broken_by=result.broken_by,
      accuracies=np.array(list(result.accuracies.values())),
    )


if __name__ == "__main__":
  main()
