"""Looking at a network: what its initialization does to signals, weights and gradients.

Results are plain data: an iterable of frozen records, `str()` a table, `to_json()`, and `plot()` a
matplotlib Figure. matplotlib is imported by `plot()` alone, and rich by a terminal alone.
"""

from fastinit.diagnostics.checks.finding import Finding, Findings
from fastinit.diagnostics.checks.run import check
from fastinit.diagnostics.comparison import Comparison, compare
from fastinit.diagnostics.gradients import GradientRecord, GradientReport, gradient_report
from fastinit.diagnostics.limits import InitializationWarning
from fastinit.diagnostics.signals.propagation import (
    Propagation,
    SignalRecord,
    signal_propagation,
)
from fastinit.diagnostics.watching.monitor import ActivationMonitor
from fastinit.diagnostics.watching.records import ActivationRecord
from fastinit.diagnostics.weights import WeightRecord, WeightReport, weight_report

__all__ = [
    "ActivationMonitor",
    "ActivationRecord",
    "Comparison",
    "Finding",
    "Findings",
    "GradientRecord",
    "GradientReport",
    "InitializationWarning",
    "Propagation",
    "SignalRecord",
    "WeightRecord",
    "WeightReport",
    "check",
    "compare",
    "gradient_report",
    "signal_propagation",
    "weight_report",
]
