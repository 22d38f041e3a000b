"""The optimiser, the schedule and the training loop of a run."""

import dataclasses

from robust_info.config import schema


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
  """The optimiser, the schedule and the training loop.

  Attributes:
    num_epochs: number of passes over the training split.
    batch_size: number of examples per step, over all devices of all processes.
    accumulate: number of micro-batches per step, one after the other, for
      batches that do not fit in memory; this number and the number of devices
      divide `batch_size`. Batch statistics, and objectives that compare
      examples, see one micro-batch at a time.
    optimizer: `sgd`, `adam` or `adamw`.
    learning_rate: peak learning rate.
    schedule: `constant`, `cosine` (to 0), `piecewise`, or `cyclic` (linear up
      from 0 to the peak and down to 0).
    warmup: share of training over which the learning rate rises from 0.
    decay_at: shares of training after which `piecewise` decays.
    decay_factor: factor of each of these decays.
    cycle_peak: share of training after which `cyclic` is at its peak.
    momentum: momentum of `sgd`.
    nesterov: whether that momentum is Nesterov's.
    weight_decay: weight decay of kernels only, never of biases or normalisation
      parameters; added to the gradient by `sgd`, decoupled in `adamw`.
    ema_decay: decay of exponential moving averages of parameters and batch
      statistics, which validation, checkpoint choice and evaluation then use; 0
      means none.
    log_every: number of steps between two training rows of the log.
    validate_every: number of epochs between two validations, each with a
      checkpoint.
    validate_at: numbers of further steps after which to validate, with a
      checkpoint; the network before the first step is always validated. For
      example, 1, 2, 4, 8, ... show the beginning of training.
    checkpoint_every: number of steps between further checkpoints; 0 means none.
    keep_last: number of newest checkpoints to keep in addition to the best.
    on_nonfinite: reaction to a loss or parameters that are not finite: `stop`
      with the number of the step, or `rollback`: return to the last regular
      checkpoint and continue with other randomness at half the learning rate.
    max_rollbacks: number of rollbacks of a run before it stops.
  """

  num_epochs: int = schema.positive(20, at_most=10**7)
  batch_size: int = schema.positive(128, at_most=2**20)
  accumulate: int = schema.positive(1, at_most=2**20)
  optimizer: str = schema.one_of("adam", ("sgd", "adam", "adamw"))
  learning_rate: float = schema.positive(1e-3)
  schedule: str = schema.one_of(
    "cosine", ("constant", "cosine", "piecewise", "cyclic")
  )
  warmup: float = schema.below_one(0.0)
  decay_at: tuple[float, ...] = schema.each(
    (0.5, 0.75), "in (0, 1)", lambda v: 0 < v < 1
  )
  decay_factor: float = schema.positive(0.1)
  cycle_peak: float = schema.checked(0.4, "in (0, 1)", lambda v: 0 < v < 1)
  momentum: float = schema.below_one(0.9)
  nesterov: bool = False
  weight_decay: float = schema.non_negative(0.0)
  ema_decay: float = schema.below_one(0.0)
  log_every: int = schema.positive(50)
  validate_every: int = schema.positive(1)
  validate_at: tuple[int, ...] = schema.each(
    (), "> 0", lambda v: v > 0, at_most=10**9
  )
  checkpoint_every: int = schema.non_negative(0)
  keep_last: int = schema.positive(2)
  on_nonfinite: str = schema.one_of("stop", ("stop", "rollback"))
  max_rollbacks: int = schema.positive(3, at_most=100)
