"""Training: a resumable loop around a pure step, and the files of a run."""

from robust_info.training.loop import NonFiniteError, train
from robust_info.training.run import Run, restore_run

__all__ = ["NonFiniteError", "Run", "restore_run", "train"]
