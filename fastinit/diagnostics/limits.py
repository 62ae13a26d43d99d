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

# What `checks` makes of the same numbers. In the depth of a network of relus without norms all
# inputs look alike, and a unit is off for all of them: a third of a layer behind thirty such layers
# with their gain, which is a warning.
DEAD_WARNING, DEAD_ERROR = 0.1, DEAD_SHARE
SATURATED_ERROR = 0.5
# Second moments from the first layers of a stretch without norms to its last. SageMaker's
# PoorWeightInitialization has 10; a hundred in ten layers goes on beyond what an optimizer evens
# out, while stock AlexNet, of eight, loses more and trains.
SCALE_WARNING, SCALE_ERROR, SCALE_ERROR_ANYWHERE = 10.0, 100.0, 1e8
SCALE_LAYERS_WARNING, SCALE_LAYERS_ERROR = 5, 10
GAIN_OFF = 0.05  # of a layer, from its activation's: in fifty layers 0.95^100 = 1 / 170
# Second moments of gradients; AutoTrainer asks at 70 for the norm, a second moment of 4,900.
GRADIENT_WARNING, GRADIENT_ERROR = 1e4, 1e8
LARGEST_OUTPUT = 10.0  # std of the model's output; the first loss is then far above log(classes)
LARGEST_LOGIT = 4.0  # std of attention's logits; the softmax then picks single tokens
TOKEN_COSINE = 0.95  # Dong et al., "Attention is not all you need" (2021): rank collapse
