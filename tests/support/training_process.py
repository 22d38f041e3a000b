"""A training run in a process that tests kill; see test_training_crash.py.

Usage: python training_process.py UNDISTURBED WORKDIR EVENT [EVENT ...]

For each event in turn, a process trains in the workdir until that event,
usually a SIGKILL. Then this process trains to the end. It does the same in
UNDISTURBED, where no process ran before it. The file `kills` in the workdir
then holds the number of killed processes. Events are

    epochs:N        no event: length of the run, instead of three epochs
    batch:K         when the batch of step K is read, ahead of the step
    validate:K      in the validation after step K
    rows:K          between the log's flush and the checkpoint of step K
    saving:K        while the checkpoint of step K is being saved
    line:K          in the middle of writing a row of step K
    seconds:S       S seconds after the first step, if it still runs
    epoch:S         S seconds after the first row that the process writes, in
                    its next validation at the latest
    moment:S        S seconds after the start of the process, if it still runs
    full:K          no SIGKILL: disk full from the checkpoint of step K on
"""

import os
import pathlib
import resource
import signal
import sys
import threading
import warnings

import jax
import numpy as np
import short_process

from robust_info import config, data, models, training
from robust_info.training import checkpoints, metrics_log

NUM_EXAMPLES = 100
num_epochs = 3
NO_SPACE = 3  # exit code of a process whose disk is full


def run_config():
  """13 steps per epoch, checkpoints within epochs too."""
  return config.from_config_dict(
    {
      "model": {
        "name": "mlp",
        "hidden_sizes": (8,),
        "num_classes": 4,
        "image_shape": (4, 4, 1),
        "mean": (0.5,),
        "std": (0.3,),
      },
      "data": {"augment": "crop_flip", "crop_padding": 1},
      "objective": {
        "name": "pgd",
        "num_steps": 1,
        "epsilon_ramp": 0.5,
      },
      "train": {
        "num_epochs": num_epochs,
        "batch_size": 8,
        "learning_rate": 0.03,
        "ema_decay": 0.8,
        "log_every": 4,
        "checkpoint_every": 5,
      },
    }
  )


def split():
  """Random images of distinguishable classes."""
  rng = np.random.default_rng(0)
  labels = np.arange(NUM_EXAMPLES, dtype=np.int32) % 4
  centres = rng.integers(40, 215, (4, 4, 4, 1))
  noise = rng.integers(-40, 40, (NUM_EXAMPLES, 4, 4, 1))
  return data.Split((centres[labels] + noise).astype(np.uint8), labels)


def make_validate():
  """Accuracy on clean and on noisy images, the latter as the robust one."""
  held_out = split()
  clean = held_out.images.astype(np.float32) / 255
  noise = np.random.default_rng(1).normal(0, 0.5, clean.shape)
  noisy = clean + noise.astype(np.float32)
  apply = jax.jit(models.apply_fn(models.from_config(run_config().model)))

  def validate(variables):
    def accuracy(x):
      logits = np.asarray(apply(variables, x))
      return float(np.mean(np.argmax(logits, -1) == held_out.labels))

    return {"accuracy": accuracy(clean), "robust_accuracy": accuracy(noisy)}

  return validate


def train(path, event=None):
  """Trains in this process, which dies at the event."""
  validate = make_validate()
  if event is not None:
    validate = arm(event, validate)
  with open(os.devnull, "w") as silence:
    return training.train(
      run_config(), split(), validate, workdir=path, stream=silence
    )


def die():
  os.kill(os.getpid(), signal.SIGKILL)


def arm(event, validate):
  """Replaces the function of the event by one that kills this process."""
  kind, _, moment = event.partition(":")
  train_batch, save = data.train_batch, checkpoints.Store.save
  write = metrics_log.MetricsWriter.write
  asked, logged = [], [0]
  if kind == "moment":
    threading.Timer(float(moment), die).start()

  def at(name, step):
    if kind == name and step == int(moment):
      die()

  def deadly_batch(split, *, step, **kwargs):
    if kind == "seconds" and not asked:
      threading.Timer(float(moment), die).start()
    asked.append(step)
    at("batch", step + 1)
    return train_batch(split, step=step, **kwargs)

  def deadly_validate(variables):
    # The loop logs the window of training rows just before a validation.
    at("validate", logged[-1])
    if kind == "epoch":
      die()
    return validate(variables)

  def deadly_save(self, step, *args, **kwargs):
    at("rows", step)
    if kind == "full" and step == int(moment):
      _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
      resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    save(self, step, *args, **kwargs)
    at("saving", step)

  def deadly_write(self, row):
    if kind == "line" and row["step"] == int(moment):
      self.flush()
      self._file.write('{"kind": "train", "st')
      self._file.flush()
      die()
    if kind == "epoch" and len(logged) == 1:
      threading.Timer(float(moment), die).start()
    write(self, row)
    logged.append(row["step"])

  data.train_batch = deadly_batch
  checkpoints.Store.save = deadly_save
  metrics_log.MetricsWriter.write = deadly_write
  return deadly_validate


def main():
  """See the module docstring."""
  global num_epochs
  undisturbed, path, *events = sys.argv[1:]
  if events and events[0].startswith("epochs:"):
    num_epochs = int(events.pop(0).removeprefix("epochs:"))
  warnings.filterwarnings("ignore", message="os.fork")
  short_process.collect_no_garbage()
  kills = 0
  for event in events:
    # No backend has started yet: the children share no threads.
    child = os.fork()
    if child == 0:
      try:
        train(path, event)
      except (checkpoints.CheckpointError, OSError):
        os._exit(NO_SPACE)
      os._exit(0)
    _, status = os.waitpid(child, 0)
    expected = NO_SPACE << 8 if event.startswith("full") else signal.SIGKILL
    if status != expected and not event.startswith(("seconds", "moment")):
      sys.exit(f"The process survived {event}.")
    kills += status == signal.SIGKILL
  for place in (path, undisturbed):
    train(place)
  (pathlib.Path(path) / "kills").write_text(str(kills))


if __name__ == "__main__":
  main()
