"""The table of every recipe of a study, whatever its questions are."""

from collections.abc import Iterator, Mapping

from robust_info.study import answers
from robust_info.study.questions import shared
from robust_info.study.records import Records

PERFORMANCE: Mapping[str, str] = {
  "clean %": "accuracy",
  "robust %": "robust_accuracy",
  "PGD %": "robust_accuracy_pgd",
  "CCKL": "cckl",
  "I(K;Y^)": "label_information",
  "local share %": "local_share",
  "path share %": "path_share",
  "CCKL taken %": "epsilon_cckl_share",
  "I(K;Y^) left": "epsilon_label_information_robust",
}
FISHER: Mapping[str, str] = {
  f"{title} {statistic}": f"fisher_{name}_{statistic}"
  for title, name in (
    ("tr F", "trace"),
    ("‖F‖", "frobenius"),
    ("λmax(F)", "spectral_norm"),
  )
  for statistic in ("mean", "median")
}


def tables(found: Records) -> Iterator[answers.Table]:
  """Two tables per case: mean ± standard deviation over seeds per recipe."""
  for case in found.cases():
    for what, columns in (
      ("performance and components", PERFORMANCE),
      ("Fisher norms", FISHER),
    ):
      table = shared.recipe_table(found, case, columns)
      title = f"{case}, {what}: mean ± standard deviation over seeds"
      yield answers.Table(title, table.columns, table.rows)
