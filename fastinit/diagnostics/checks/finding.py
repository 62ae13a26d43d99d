"""Findings: what a rule says, how grave it is, and what to do about it.

Owns their form and their order. Must not know rules.
"""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from typing import Literal, TypeAlias

from fastinit.diagnostics.tables import WIDTH, Cell, Result

Severity: TypeAlias = Literal["error", "warning", "info"]
_ORDER = ("error", "warning", "info")


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is probably not as it should be.

    Args:
        severity: "error": the model will hardly train, or its numbers are wrong; "warning": it
            will train worse than it could; "info": worth knowing.
        name: of the parameter, module or first of several modules; empty for the whole model.
        what: was found, with numbers.
        remedy: what to do.
    """

    severity: Severity
    name: str
    what: str
    remedy: str


@dataclass(frozen=True)
class Findings(Result[Finding]):
    """What `check` found, the gravest first; empty if nothing."""

    def headers(self) -> list[str]:
        """The names of the columns of the table."""
        return ["severity", "name", "what", "remedy"]

    def rows(self) -> list[list[Cell]]:
        """One row for each finding."""
        return [[f.severity, f.name, f.what, f.remedy] for f in self.records]

    def __str__(self) -> str:
        """One paragraph for each finding."""
        if not self.records:
            return "nothing found"
        return "\n".join(_paragraph(finding) for finding in self.records)


def _paragraph(finding: Finding) -> str:
    where = f"{finding.name}: " if finding.name else ""
    text = f"{finding.severity}: {where}{finding.what}"
    lines = [*text.splitlines(), f"  {finding.remedy}"]
    return "\n".join(textwrap.fill(line, WIDTH, subsequent_indent="  ") for line in lines)


def sorted_findings(findings: list[Finding]) -> Findings:
    """The findings, the gravest first, else in the order in which they came."""
    return Findings(tuple(sorted(findings, key=lambda f: _ORDER.index(f.severity))))
