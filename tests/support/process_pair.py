"""Trainings by two processes of one device each; see test_processes.py.

Usage: python process_pair.py DIRECTORY [report]

Writes to DIRECTORY the workdirs `undisturbed` and `killed`. In the latter, both
processes of a training die by SIGKILL, are started again, are stopped by a
SIGTERM to one of them, and resume. For both processes it also writes their
measurements and the messages of refusals. With the word `report` instead: the
workdir `reported`, and the report of both processes on it.
"""

import dataclasses
import json
import os
import pathlib
import signal
import socket
import sys
import warnings

import jax
import numpy as np
import sharded_problem
import short_process
import tiny_problem
import training_process

import robust_info as ri
from robust_info import config as config_lib
from robust_info import data, report, training
from robust_info.evaluation import cache as measurement_cache
from robust_info.runtime import interruption, processes, sharding


def run_config():
  """Two epochs of 13 steps, with checkpoints within."""
  config = training_process.run_config()
  return dataclasses.replace(
    config,
    objective=config_lib.ObjectiveConfig(),
    train=dataclasses.replace(config.train, num_epochs=2),
  )


def train(workdir, event=None):
  """Trains in this process, alone or with others; see training_process."""
  validate = training_process.make_validate()
  if event is not None:
    validate = training_process.arm(event, validate)
  with open(os.devnull, "w") as silence:
    return training.train(
      run_config(),
      training_process.split(),
      validate,
      workdir=workdir,
      stream=silence,
    )


def train_as(number, directory, event=None):
  """Trains; process 0 has the workdir, process 1 a path that stays unused."""
  if number == 0:
    return train(directory, event)
  return train(directory.with_name("of-process-1"))


def stopped_and_finished(number, directory):
  """SIGTERM to one process ends both, and both resume where they ended."""
  train_batch = data.train_batch

  def signalling(split, *, step, **kwargs):
    if number == 1 and step == 20:
      os.kill(os.getpid(), signal.SIGTERM)
    return train_batch(split, step=step, **kwargs)

  data.train_batch = signalling
  try:
    train_as(number, directory / "killed")
  except interruption.Interrupted as error:
    (directory / f"stopped-{number}.txt").write_text(str(error))
  data.train_batch = train_batch
  train_as(number, directory / "killed")


def measure(directory, number):
  """Computes everything that needs both processes and compares with one."""
  arrays = {"merged_cckl": merged_cckl()}
  for path, leaf in jax.tree_util.tree_leaves_with_path(
    sharded_problem.evaluate()
  ):
    arrays[jax.tree_util.keystr(path)] = np.asarray(leaf)
  np.savez(directory / f"measured-{number}.npz", **arrays)
  # The values that the first process finds on its disk count for both.
  home = directory / f"cache-{number}"
  cache = measurement_cache.MeasurementCache(home, "x")
  values = [cache.get("a", lambda: [number, None]), cache.get("a", None)]
  other = dataclasses.replace(run_config(), seed=1)
  try:
    training.train(
      other,
      training_process.split(),
      None,
      workdir=directory / "undisturbed",
    )
  except Exception as error:
    refusal = f"{type(error).__name__}: {error}"
  text = json.dumps(
    {
      "values": values,
      "refusal": refusal,
      "disagreement": disagreement(number, directory),
    }
  )
  (directory / f"said-{number}.json").write_text(text)


def disagreement(number, directory):
  """The message to a training that was started differently on process 1."""
  config = run_config()
  other = dataclasses.replace(
    config,
    # The location of the data does not count as a difference.
    data=dataclasses.replace(config.data, cache_dir=f"cache-{number}"),
    train=dataclasses.replace(
      config.train, learning_rate=config.train.learning_rate / (1 + number)
    ),
    seed=number,
  )
  try:
    training.train(
      other, training_process.split(), None, workdir=directory / "disagreed"
    )
  except processes.DisagreementError as error:
    return str(error)
  return None


def make_report(run, output):
  """Makes the report as evaluate.py does for that run."""
  split = training_process.split()
  model = run_config().model
  source = data.DataSource(
    name=run_config().data.name,
    version="1.0.0",
    train=split,
    validation=split,
    test=split,
    num_classes=model.num_classes,
    image_shape=model.image_shape,
    label_names=("ant", "bee", "cow", "dog"),
  )
  report.build(
    [training.restore_run(run, checkpoint="last")],
    source,
    # The last batch is ragged.
    tiny_problem.make_settings(
      batch_size=30, num_steps=2, num_pairs=9, attack="apgd"
    ),
    output=output,
  )


def merged_cckl():
  """CCKL of the tiny problem, of which each process holds one half."""
  logits, labels = statistics_input()
  local = sharding.local_rows(len(labels))
  rows = sharding.split_rows((logits[local], labels[local]))

  def merge(logits, labels):
    stats = ri.information_stats(logits, labels)
    return ri.summarize(ri.merge_across(stats, sharding.AXIS)).cckl

  spec = jax.sharding.PartitionSpec(sharding.AXIS)
  merged = jax.jit(
    jax.shard_map(
      merge,
      mesh=sharding.mesh(),
      in_specs=(spec, spec),
      out_specs=jax.sharding.PartitionSpec(),
      check_vma=False,
    )
  )(*rows)
  return jax.device_get(merged)


def statistics_input():
  """Logits and labels of 40 examples."""
  rng = np.random.default_rng(0)
  logits = rng.normal(size=(40, 3)).astype(np.float32)
  return logits, rng.integers(0, 3, 40)


def in_pair(work, *, deadly=False):
  """Runs work(number) in two processes, which must die exactly if `deadly`."""
  with socket.socket() as listener:
    listener.bind(("localhost", 0))
    port = listener.getsockname()[1]
  # No backend has started yet: the children share no threads.
  children = [fork(work, number, port) for number in range(2)]
  _, status = os.waitpid(children[0], 0)
  if deadly:
    os.kill(children[1], signal.SIGKILL)
  _, other = os.waitpid(children[1], 0)
  if deadly != (status == signal.SIGKILL) or (not deadly and status + other):
    sys.exit(f"The processes ended with status {status} and {other}.")


def fork(work, number, port):
  """Starts one of the two processes."""
  child = os.fork()
  if child:
    return child
  processes.join(
    coordinator=f"localhost:{port}", num_processes=2, process_id=number
  )
  work(number)
  jax.distributed.shutdown()
  os._exit(0)


def main():
  """See the module docstring."""
  directory = pathlib.Path(sys.argv[1])
  warnings.filterwarnings("ignore", message="os.fork")
  short_process.collect_no_garbage()

  def undisturbed_and_killed(number):
    train_as(number, directory / "undisturbed")
    measure(directory, number)
    train_as(number, directory / "killed", "batch:17")

  def reported(number):
    train_as(number, directory / "reported")
    make_report(directory / "reported", directory / "report")

  if sys.argv[2:] == ["report"]:
    in_pair(reported)
    return
  in_pair(undisturbed_and_killed, deadly=True)
  in_pair(lambda number: stopped_and_finished(number, directory))


if __name__ == "__main__":
  main()
