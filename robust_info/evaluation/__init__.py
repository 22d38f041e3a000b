"""Evaluation of a network on a split: every number of a report."""

from robust_info.evaluation.evaluator import Evaluator

__all__ = ["Evaluator"]
