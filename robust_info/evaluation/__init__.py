"""Evaluation of a network on a split: all numbers of a report."""

from robust_info.evaluation.evaluator import Evaluator

__all__ = ["Evaluator"]
