"""Where a number becomes a remark: thresholds, each with its source, and the warning's class.

Must not know how anything is measured.
"""

from __future__ import annotations


class InitializationWarning(UserWarning):
    """An initialization that is likely to make training slow or impossible."""


# A unit is dead when it is zero on all of this many inputs; on fewer, chance may do it.
DEAD_INPUTS = 1024
# Half of a layer dead: SageMaker Debugger's rule DeadRelu.
DEAD_SHARE = 0.5
# Values where the slope is below SATURATED_SLOPE; |tanh| > 0.97 is the same in other words
# (Karpathy, makemore). A quarter of a layer there slows it down.
SATURATED_SLOPE = 0.05
SATURATED_SHARE = 0.25
# Variance, and that of gradients, from the first of the layers that are alike to the last one:
# 50 layers at a factor of 1.1 a layer. SageMaker's PoorWeightInitialization asks at 10.
DRIFT = 100.0
