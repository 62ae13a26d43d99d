"""What a module does anyway: its own code, and the laws of torch.nn by formula.

Owns `native` and `torch`. Must not know names of models: torch.nn is told by module classes.
"""

from __future__ import annotations

from torch import nn

from fastinit.initializers import Constant, Kaiming, Native, Normal, Ones, Uniform, Xavier, Zeros
from fastinit.initializers.expressions import fan_in, fan_out, sqrt
from fastinit.recipes.patterns import Inside, Role
from fastinit.recipes.recipe import Recipe

_CONVOLUTIONS = (
    *(nn.Conv1d, nn.Conv2d, nn.Conv3d),
    *(nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
)
_NORMS = (
    *(nn.LayerNorm, nn.RMSNorm, nn.GroupNorm),
    *(nn.modules.batchnorm._NormBase,),  # BatchNorm, SyncBatchNorm, InstanceNorm
)
# Their weights stack the gates, 4 or 3 or 1 times the hidden size; so do their biases.
_RECURRENT = {nn.LSTM: 4, nn.LSTMCell: 4, nn.GRU: 3, nn.GRUCell: 3, nn.RNN: 1, nn.RNNCell: 1}


def native() -> Recipe:
    """What the model's own code does, each draw keyed by the name of the tensor it writes.

    `_init_weights`, `reset_parameters` and `_reset_parameters` of the modules decide the laws;
    nothing has to be known about them.
    """
    return Recipe({"**": Native()}, partial=True, name="native")


def torch() -> Recipe:
    """The laws of torch.nn's constructors.

    Linear, convolutions: weight and bias uniform on +-1 / sqrt(fan_in). Bilinear: the same with the
    first input's features. Recurrent layers: everything uniform on +-1 / sqrt(hidden). Embeddings:
    N(0, 1), padding 0. MultiheadAttention: Xavier's uniform law, biases 0, out_proj.weight as a
    Linear's; inside an nn.Transformer Xavier's uniform law for all matrices. Norms 1 and 0, PReLU
    1/4.

    Source: torch/nn/modules of torch 2.14.
    """
    bound = 1 / sqrt(fan_in)
    like_linear = Kaiming(a=5**0.5, distribution="uniform", transposed=False)
    bias = Uniform(-bound, bound, transposed=False)
    rules: list[tuple[object, object]] = [
        (Inside(nn.Transformer, 2), Xavier(distribution="uniform")),
        ((nn.modules.linear.NonDynamicallyQuantizableLinear, "bias"), Zeros()),
        ((nn.MultiheadAttention, "*bias"), Zeros()),
        ((nn.MultiheadAttention, "bias_*"), Xavier()),
        ((nn.MultiheadAttention, "*_weight"), Xavier(distribution="uniform")),
        ((nn.Bilinear, "*"), Uniform(-bound, bound, in_axis=1, out_axis=0, batch_axis=2)),
        *_recurrent(),
        *(((owner, "weight"), like_linear) for owner in (nn.Linear, *_CONVOLUTIONS)),
        *(((owner, "bias"), bias) for owner in (nn.Linear, *_CONVOLUTIONS)),
        ((nn.Embedding, "weight"), Normal(1.0)),
        ((nn.EmbeddingBag, "weight"), Normal(1.0)),
        *(((owner, "weight"), Ones()) for owner in _NORMS),
        *(((owner, "bias"), Zeros()) for owner in _NORMS),
        ((nn.PReLU, "weight"), Constant(0.25)),
        (Role("norm"), Ones()),  # those that are not torch's
        (Role("centred_norm"), Zeros()),
    ]
    return Recipe(rules, partial=True, name="torch")  # type: ignore[arg-type]


def _recurrent() -> list[tuple[object, object]]:
    found: list[tuple[object, object]] = []
    for owner, gates in _RECURRENT.items():
        inside, stacked = 1 / sqrt(fan_in), 1 / sqrt(fan_out / gates)
        found += [
            ((owner, "weight_hr*"), Uniform(-inside, inside)),  # projects (hidden) to (proj_size)
            ((owner, "*"), Uniform(-stacked, stacked)),
        ]
    return found
