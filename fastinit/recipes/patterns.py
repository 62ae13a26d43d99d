"""Patterns: which parameters a rule speaks of.

Owns the kinds of patterns, their text, and what of a parameter each may look at: by that the answer
for one block of a model holds for all others. Must not know initializers, nor which roles exist.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import product
from typing import Any, TypeAlias

from torch import nn

from fastinit.recipes.names import Found

RoleOf: TypeAlias = Callable[[Found], str | None]
Predicate: TypeAlias = Callable[[str, nn.Module, nn.Parameter], bool]

_BRACES = re.compile(r"\{([^{}]*)\}")
_TOKENS = re.compile(r"\*\*\.|\.\*\*$|\*\*|\*|\?|\[[^\]]+\]|.", re.DOTALL)
_MEANINGS = {
    ".**": r"\..*",
    "**": ".*",
    "*": "[^.]*",
    "?": "[^.]",
    "{": "(?:",
    ",": "|",
    "}": ")",
}
_STARTS = ("\\.", r"(?:.*\.)?", "(?:", "|")  # behind these a part of the name begins
_IN_BLOCKS = re.compile(r"[0-9?\[#]")
_WORD = re.compile(r"[^\W\d]")


@dataclass(frozen=True, slots=True)
class Matcher:
    """A pattern, ready to use; equal to another of the same pattern, and pickled as that.

    Args:
        text: the pattern as a table shows it.
        matches: whether it fits a parameter, given what tells roles.
        alike: whether parameters of one template, module class and local name, with the same role,
            all get the same answer.
        source: what `matcher` made it of.
    """

    text: str
    matches: Callable[[Found, RoleOf], bool] = field(compare=False)
    alike: bool
    source: tuple[Any, ...] = ()

    def __reduce__(self) -> tuple[Any, ...]:
        return matcher, self.source


@dataclass(frozen=True, slots=True, init=False)
class Role:
    """A pattern for the parameters that play one of these parts in a model.

    Args:
        roles: names of roles or of groups of roles; `fastinit.recipes.roles` lists them.
        under: a glob that the name has to fit as well.

    Example:
        >>> from fastinit.recipes import Role
        >>> Role("attention_out", "ffn_out")
        Role('attention_out', 'ffn_out')
    """

    roles: tuple[str, ...]
    under: str

    def __init__(self, *roles: str, under: str = "**") -> None:
        object.__setattr__(self, "roles", roles)
        object.__setattr__(self, "under", under)

    def __repr__(self) -> str:
        words = [*map(repr, self.roles), *([f"under={self.under!r}"] * (self.under != "**"))]
        return f"Role({', '.join(words)})"


@dataclass(frozen=True, slots=True)
class Inside:
    """A pattern for parameters of at least `ndim` dimensions somewhere inside a module class."""

    module: type[nn.Module]
    ndim: int


@dataclass(frozen=True, slots=True)
class First:
    """A pattern for the weight of the first module of a class in the model."""

    module: type[nn.Module]


def matcher(pattern: Any, roles: Callable[[str], frozenset[str]]) -> Matcher:
    """What a pattern of any kind means.

    Args:
        pattern: a glob, "re:...", a module class, a (class, parameter name) pair, a predicate, a
            `Role` or an `Inside`.
        roles: the roles that a name of a role or of a group stands for.

    Raises:
        TypeError: none of these.
        ValueError: a regular expression that does not compile, an unknown role.
    """
    return replace(_compiled(pattern, roles), source=(pattern, roles))


def _compiled(pattern: Any, roles: Callable[[str], frozenset[str]]) -> Matcher:
    match pattern:
        case str():
            return _regex(pattern) if pattern.startswith("re:") else _glob_matcher(pattern)
        case Role():
            return _role(pattern, roles)
        case Inside(module=module, ndim=ndim):
            return _inside(module, ndim)
        case First(module=module):
            return _first(module)
        case type() if issubclass(pattern, nn.Module):
            return Matcher(
                _class_name(pattern), lambda found, _: isinstance(found.site.link[0], pattern), True
            )
        case (type() as owner, str() as local) if issubclass(owner, nn.Module):
            return _class_and_name(owner, local)
        case _ if callable(pattern) and not isinstance(pattern, type):
            name = getattr(pattern, "__name__", repr(pattern))
            return Matcher(
                name,
                lambda found, _: bool(pattern(found.name, found.site.link[0], found.parameter)),
                False,
            )
    raise TypeError(
        f"a pattern must be a glob, 're:...', a module class, a (class, parameter name) pair, a "
        f"Role or a predicate (name, module, parameter), got {pattern!r}"
    )


def _role(pattern: Role, roles: Callable[[str], frozenset[str]]) -> Matcher:
    wanted = frozenset().union(*map(roles, pattern.roles))
    text = f"role {', '.join(pattern.roles)}"
    if pattern.under == "**":
        return Matcher(text, lambda found, role_of: role_of(found) in wanted, True)
    place = _glob_matcher(pattern.under)

    def matches(found: Found, role_of: RoleOf) -> bool:
        return role_of(found) in wanted and place.matches(found, role_of)

    return Matcher(f"{text} under {pattern.under}", matches, place.alike)


def _class_name(owner: type[nn.Module]) -> str:
    home = "nn" if owner.__module__.startswith("torch.nn.") else owner.__module__.split(".")[0]
    return f"{home}.{owner.__name__}"


def _class_and_name(owner: type[nn.Module], local: str) -> Matcher:
    fits = glob(local)

    def matches(found: Found, _: RoleOf) -> bool:
        return isinstance(found.site.link[0], owner) and fits.fullmatch(found.local) is not None

    return Matcher(f"({_class_name(owner)}, {local!r})", matches, True)


def _inside(owner: type[nn.Module], ndim: int) -> Matcher:
    def matches(found: Found, _: RoleOf) -> bool:
        link = found.site.link
        while link is not None and not isinstance(link[0], owner):
            link = link[1]
        return link is not None and len(found.shape) >= ndim

    return Matcher(f"inside {_class_name(owner)}, at least {ndim} dimensions", matches, False)


def _first(owner: type[nn.Module]) -> Matcher:
    def matches(found: Found, _: RoleOf) -> bool:
        link = found.site.link
        while link[1] is not None:
            link = link[1]
        own = (module for module in link[0].modules() if isinstance(module, owner))
        return found.local == "weight" and next(own, None) is found.site.link[0]

    return Matcher(f"first {_class_name(owner)}", matches, False)


def _regex(text: str) -> Matcher:
    try:
        compiled = re.compile(text[3:])
    except re.error as error:
        raise ValueError(f"{text!r} is no regular expression: {error}") from None
    return Matcher(text, lambda found, _: compiled.fullmatch(found.name) is not None, False)


def _glob_matcher(text: str) -> Matcher:
    compiled = glob(text)
    if blind_to_indices(text):
        dotted = {}  # by template and local name: two strings that come again and again

        def matches(found: Found, _: RoleOf) -> bool:
            at = (found.site.template, found.local)
            if at not in dotted:
                name = ".".join(filter(None, at))
                dotted[at] = compiled.fullmatch(name) is not None
            return dotted[at]

        return Matcher(text, matches, True)
    return Matcher(text, lambda found, _: compiled.fullmatch(found.name) is not None, False)


@lru_cache(maxsize=1024)
def glob(text: str) -> re.Pattern[str]:
    """The regular expression of a glob over dotted names.

    `*` stands for anything within a part, `?` for one character, `**` for anything, `**.` for any
    number of parts, also none; `{a,b}` for either.
    """
    if not text:
        raise ValueError("a pattern must not be empty; '**' fits every name")
    if text.count("{") != text.count("}"):
        raise ValueError(f"{text!r} has a brace without its partner")
    words: list[str] = []
    depth = 0
    for token in _TOKENS.findall(text):
        depth += (token == "{") - (token == "}")
        if token == "**.":
            words.append(r"(?:.*\.)?" if not words or words[-1] in _STARTS else r".*\.")
        elif token == "," and not depth:
            words.append(",")
        elif token in _MEANINGS:
            words.append(_MEANINGS[token])
        elif len(token) > 1:
            words.append("[^" + token[2:] if token[1] == "!" else token)
        else:
            words.append(re.escape(token))
    return re.compile("".join(words))


def _choices(text: str) -> list[str]:
    """The globs without braces that one with braces stands for."""
    pieces = _BRACES.split(text)
    if len(pieces) == 1:
        return [text]
    options = [piece.split(",") if at % 2 else [piece] for at, piece in enumerate(pieces)]
    return [whole for parts in product(*options) for whole in _choices("".join(parts))]


@lru_cache(maxsize=1024)
def blind_to_indices(text: str) -> bool:
    """Whether a glob treats all indices alike, so that a template tells as much as a name."""
    for choice in _choices(text):
        for part in choice.split("."):
            spans = "**" in part and part != "**"
            if _IN_BLOCKS.search(part) and (spans or not _WORD.search(part)):
                return False
            if "[" in part or "?" in part:
                return False
    return True
