"""`check`: all rules on one model.

Owns the public function. The rules are those of `weights`, `signals` and `laws`.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from fastinit.diagnostics.checks import laws, signals, weights
from fastinit.diagnostics.checks.finding import Finding, Findings, sorted_findings
from fastinit.diagnostics.subject import require_rows, require_runnable


def check(module: nn.Module, x: Any = None, recipe: Any = None) -> Findings:
    """What is probably wrong with a model's initialization, and what to do about it.

    Source: each rule names its own; docs/checks.md lists them with their thresholds.

    Args:
        module: a model with values in it, not compiled; left as it was found.
        x: a batch that it takes (a tensor, a sequence of arguments, a mapping of keywords), for the
            rules about signals and gradients; None leaves those out. At least two rows; dead units
            are looked for on 1,024 inputs or more.
        recipe: the recipe, or the name of one, that the model should follow; None leaves the rules
            about laws out.

    Returns: findings, the gravest first; empty if all is well.

    Raises: TypeError, ValueError, RuntimeError: as `signal_propagation` for module and x.

    Example:
        >>> import torch, fastinit
        >>> from fastinit.diagnostics import check
        >>> layers = [torch.nn.Linear(64, 64), torch.nn.GELU()] * 3
        >>> model = torch.nn.Sequential(*layers)
        >>> torch.nn.init.ones_(model[0].weight).shape
        torch.Size([64, 64])
        >>> print(check(model).records[0].severity)
        error
    """
    require_runnable(module)
    found: list[Finding] = list(weights.findings(module))
    if recipe is not None:
        found += laws.findings(module, recipe)
    if x is not None:
        require_rows(x, "x")
        found += signals.findings(module, x)
    return sorted_findings(found)
