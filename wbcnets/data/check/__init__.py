"""Checks datasets of any format in one pass: ``wbcnets check PATH``.

Training, evaluation and prediction read data through the same readers and validators
(``wbcnets.data``), so that what passes here passes there.
"""

from wbcnets.data.check.checking import CheckOptions, check_datasets, fix_datasets
from wbcnets.data.check.results import CheckResult, SetResult

__all__ = ["CheckOptions", "CheckResult", "SetResult", "check_datasets", "fix_datasets"]
