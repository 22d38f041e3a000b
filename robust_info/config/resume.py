"""Which fields may change when a run is resumed.

A field may change if every step taken so far would have been the same:

- the location of the data and the way it is read;
- `train.log_every`, `validate_every`, `validate_at`, `checkpoint_every` and
  `keep_last`: from then on, other steps are logged, validated and kept;
- `train.on_nonfinite` and `max_rollbacks`;
- `evaluation`, except for the fields that score a checkpoint: the best one is
  chosen by a score, and scores of two kinds cannot be compared. evaluate.py
  takes all of them as flags;
- `train.num_epochs` may grow if nothing depends on the share of training: with
  a constant learning rate, and without warm-up, ramp and `awp_warmup`.
  Otherwise the steps taken so far would have been different.

Anything else is a new run, which may start from the weights of an old one.
"""

from typing import Any

from robust_info.config import data, reads, schema

_FREE = (
  *data.LOCATION_FIELDS,
  "train.log_every",
  "train.validate_every",
  "train.validate_at",
  "train.checkpoint_every",
  "train.keep_last",
  "train.on_nonfinite",
  "train.max_rollbacks",
)
_SCORES = (
  "evaluation.norm",
  "evaluation.epsilon",
  "evaluation.num_steps",
  "evaluation.restarts",
  "evaluation.validation_examples",
)
# Shares of training -> the value for which the share has no effect.
_SHARES = {
  "train.schedule": "constant",
  "train.warmup": 0.0,
  "objective.epsilon_ramp": 0.0,
  "objective.awp_warmup": 0.0,
}


def changed(old: Any, new: Any) -> dict[str, str]:
  """The fields in which two configurations differ.

  Args:
    old: a `config.Config`.
    new: another one.

  Returns:
    Dotted names -> texts such as `seed: 0, now 1`, in the order of the classes,
    without fields that have no effect in either.
  """
  before, after = schema.flatten(old), schema.flatten(new)
  unread = [
    ({*values}, reads.unread(config))
    for values, config in ((before, old), (after, new))
  ]

  def idle(name: str) -> bool:
    # The settings of a registered part may be fields of one of the two only.
    return all(name not in fields or name in off for fields, off in unread)

  pairs = {name: (before.get(name), after.get(name)) for name in before | after}
  return {
    name: f"{name}: {was!r}, now {now!r}"
    for name, (was, now) in pairs.items()
    if was != now and not idle(name)
  }


def refused(old: Any, new: Any) -> list[str]:
  """The changes with which a run cannot be resumed.

  Args:
    old: the `config.Config` of the run.
    new: the configuration it would continue with.

  Returns:
    Texts in the format of `changed`, some with the reason.
  """
  found = []
  for name, text in changed(old, new).items():
    if name in _FREE:
      continue
    if name == "train.num_epochs":
      if reason := _why_no_more_epochs(old, new):
        found.append(f"{text} ({reason})")
    elif name in _SCORES:
      found.append(f"{text} (scores of checkpoints depend on it)")
    elif not name.startswith("evaluation."):
      found.append(text)
  return found


def _why_no_more_epochs(old: Any, new: Any) -> str | None:
  if new.train.num_epochs < old.train.num_epochs:
    return "it may only grow"
  idle, values = reads.unread(old), schema.flatten(old)
  for name, indifferent in _SHARES.items():
    if name not in idle and values[name] != indifferent:
      return f"{name} = {values[name]!r} makes every step depend on it"
  return None
