"""Matching: which rule of a recipe each parameter of a model gets.

Owns the order (the first that fits), the roles of tied parameters, and the sentences on what does
not fit. One answer serves all blocks of a list, where a pattern looks at no index. Must not know
laws.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import NamedTuple, TypeAlias

from fastinit.recipes.names import Found, template_of
from fastinit.recipes.patterns import Role
from fastinit.recipes.roles import RoleTable
from fastinit.recipes.rules import Rule

_Kind: TypeAlias = tuple[str, str, type]
_NEAR = 0.5  # how alike a name must be to be called near


class Match(NamedTuple):
    """The index of a parameter's rule, None if none fits, and its role."""

    rule: int | None
    role: str | None


class Matching:
    """The rules of all parameters of a model.

    Args:
        rules: of the recipe, in order.
        roles: what tells roles.
        groups: the parameters, each with all its places.
    """

    def __init__(
        self, rules: Sequence[Rule], roles: RoleTable, groups: Sequence[Sequence[Found]]
    ) -> None:
        self._rules = rules
        self._roles = roles
        self._groups = groups
        self._alike = [
            rule.matcher.alike and (roles.alike or not isinstance(rule.pattern, Role))
            for rule in rules
        ]
        self._unlike = [at for at, alike in enumerate(self._alike) if not alike]
        self._known: dict[_Kind, Match] = {}
        self._used: set[int | None] = set()
        self._disagreements: list[str] = []
        self.matches = [self._match(group) for group in groups]

    def _match(self, group: Sequence[Found]) -> Match:
        if len(group) > 1:
            return self._match_tied(group)
        found = group[0]
        site = found.site
        kind = (site.template, found.local, type(site.link[0]))
        known = self._known.get(kind)
        if known is None:
            known = self._known[kind] = self._match_alike(found)
        match = known
        role = match.role if self._roles.alike else self._roles.role(found)
        for at in self._unlike:
            if match.rule is not None and at > match.rule:
                break
            if self._rules[at].matcher.matches(found, self._roles.role):
                match = Match(at, role)
                break
        if match.role is not role:
            match = Match(match.rule, role)
        self._used.add(match.rule)
        return match

    def _match_alike(self, found: Found) -> Match:
        """By the rules that say the same of all blocks."""
        role_of = self._roles.role
        fitting = (
            at
            for at, rule in enumerate(self._rules)
            if self._alike[at] and rule.matcher.matches(found, role_of)
        )
        return Match(next(fitting, None), role_of(found))

    def _match_tied(self, group: Sequence[Found]) -> Match:
        """A tied parameter plays one role under all its names; of the embedding, if it is one."""
        roles = [self._roles.role(found) for found in group]
        role = "embedding" if "embedding" in roles else roles[0]
        fitting = [
            next(
                (
                    at
                    for at, rule in enumerate(self._rules)
                    if rule.matcher.matches(found, lambda _: role)
                ),
                None,
            )
            for found in group
        ]
        laws = {None if at is None else self._rules[at].initializer for at in fitting}
        if len(laws) > 1:
            self._disagreements.append(
                "two rules disagree on a tied parameter: "
                + ", ".join(
                    f"{found.name} has {_told(self._rules, at)}"
                    for found, at in zip(group, fitting, strict=True)
                )
            )
        self._used.update(fitting)
        return Match(fitting[0], role)

    # ---------------------------------------------------------------------------- what is wrong

    def problems(self, most: int) -> tuple[list[str], list[str]]:
        """What makes the recipe unfit for the model, and what only looks odd, as sentences.

        Args:
            most: the number of lines that a list may have.

        Raises:
            ValueError: two rules disagree on a tied parameter.
        """
        if self._disagreements:
            raise ValueError("\n".join(self._disagreements) + "\ngive both names one rule")
        return [*self._uncovered(most), *self._matching_nothing()], self._shadowed()

    def _uncovered(self, most: int) -> list[str]:
        if None not in self._used:
            return []
        pairs = zip(self._groups, self.matches, strict=True)
        counts: dict[tuple[str, tuple[int, ...]], list[str]] = {}
        for group, match in pairs:
            if match.rule is None:
                at = (template_of(group[0].name), tuple(group[0].shape))
                counts.setdefault(at, []).append(group[0].name)
        if not counts:
            return []
        lines = [
            f"  {names[0]}{f' and {len(names) - 1} like it' if len(names) > 1 else ''}, {shape}"
            for (_, shape), names in counts.items()
        ]
        more = [f"  and {len(lines) - most} more"] if len(lines) > most else []
        total = sum(map(len, counts.values()))
        texts = list(dict.fromkeys(rule.text for rule in self._rules))
        asked = ", ".join([*texts[:most], *["..."] * (len(texts) > most)]) or "nothing"
        head = f"no rule for {total} parameter{'s' if total > 1 else ''}:"
        tail = f"  the rules speak of: {asked}; Keep() says that values are there already"
        return ["\n".join([head, *lines[:most], *more, tail])]

    def _matching_nothing(self) -> list[str]:
        rules = [
            rule
            for at, rule in enumerate(self._rules)
            if not (at in self._used or rule.optional or self._fits_any(at))
        ]
        lines = []
        places = self._places() if rules else {}
        for rule in rules:
            near = get_close_matches(rule.text, places, n=3, cutoff=_NEAR)
            near = near or _sharing_a_step(rule.text, places)
            names = [places[name].name for name in near]
            nearest = ", ".join(names or [found.name for found in list(places.values())[:3]])
            word = "nearest names" if names else "the module has"
            lines.append(f"the rule {rule.text!r} matches nothing; {word}: {nearest}")
        return lines

    def _places(self) -> dict[str, Found]:
        """The first parameter of each template."""
        places: dict[tuple[str, str], Found] = {}
        for group in self._groups:
            places.setdefault((group[0].site.template, group[0].local), group[0])
        return {template_of(found.name): found for found in places.values()}

    def _shadowed(self) -> list[str]:
        return [
            f"the rule {rule.text!r} never acts: earlier rules match all that it does"
            for at, rule in enumerate(self._rules)
            if at not in self._used and not rule.optional and self._fits_any(at)
        ]

    def _fits_any(self, at: int) -> bool:
        matches, role_of = self._rules[at].matcher.matches, self._roles.role
        return any(matches(found, role_of) for group in self._groups for found in group)


def _told(rules: Sequence[Rule], at: int | None) -> str:
    return "no rule" if at is None else f"{rules[at].initializer!r} (rule {rules[at].text!r})"


def _sharing_a_step(text: str, names: Iterable[str]) -> list[str]:
    """Names of which a step is near one of the pattern's."""
    steps = [step for step in text.replace("{", ".").replace("}", ".").split(".") if len(step) > 2]
    wanted = [word for step in steps for word in step.split(",") if "*" not in word]
    found = [
        name
        for name in names
        if any(get_close_matches(word, name.split("."), n=1, cutoff=0.7) for word in wanted)
    ]
    return sorted(found, key=len)[:3]
