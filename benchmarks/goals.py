"""Goals: the ratio to be reached between two contenders of a case, and the verdict on a result."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from statistics import median, quantiles
from typing import Any, Literal

Quantity = Literal["speed", "time", "error"]
Result = dict[str, Any]


@dataclass(frozen=True)
class Goal:
    """`quantity` of `contender` over that of `against`: at least `bound` for a speed, else at most.

    Speed is the ratio of times upside down; an error is what the check of a contender reports.
    """

    contender: str
    against: str
    bound: float
    quantity: Quantity

    def __str__(self) -> str:
        sign = ">=" if self.quantity == "speed" else "<="
        return f"{self.quantity} {sign} {self.bound:g} x {self.against}"


def at_least(bound: float, against: str, contender: str) -> Goal:
    return Goal(contender, against, bound, "speed")


def at_most(bound: float, quantity: Literal["time", "error"] = "time") -> Goal:
    return Goal("fastinit", "torch.nn.init", bound, quantity)


def ratio(result: Result, contender: str, against: str) -> tuple[float, float, float] | None:
    """How many times faster: median and quartiles of the ratios of samples of one round."""
    entries = result["contenders"]
    if contender not in entries or against not in entries:
        return None
    pairs = zip(entries[against]["seconds"], entries[contender]["seconds"], strict=True)
    ratios = [theirs / own for theirs, own in pairs]
    if len(ratios) < 2:
        return ratios[0], ratios[0], ratios[0]
    low, _, high = quantiles(ratios, n=4, method="inclusive")
    return median(ratios), low, high


def judge(goal: Goal, result: Result) -> Result:
    """The goal with what was reached (None: a contender was absent) and the verdict."""
    speed = ratio(result, goal.contender, goal.against)
    reached: float | None = None
    if speed is not None and goal.quantity == "error":
        errors = [result["contenders"][n].get("error") for n in (goal.contender, goal.against)]
        reached = errors[0] / errors[1]
    elif speed is not None:
        reached = speed[0] if goal.quantity == "speed" else 1.0 / speed[0]
    if reached is None:
        verdict = "not measured"
    elif goal.quantity == "speed":
        verdict = "met" if reached >= goal.bound else "missed"
    else:
        verdict = "met" if reached <= goal.bound else "missed"
    return {
        "goal": str(goal),
        **asdict(goal),
        "reached": reached,
        "verdict": verdict,
    }
