"""Where a module was made: the call, in the constructor of the module that holds it.

A value that a constructor used and did not keep can often be read off that call, as
`bn_weight_init=0` of `self.norm = ConvNorm(width, width, bn_weight_init=0)`. Owns the way from a
module to that call, through lists, dictionaries, comprehensions, conditions and arguments. Must not
know what the values are for.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator, Sequence
from types import FunctionType
from typing import Any

from torch import nn

from fastinit.models.native.statements import Source, dotted, source_of
from fastinit.models.native.values import (
    Again,
    Passed,
    Tell,
    UnknownError,
    Values,
    Written,
    constructor_of,
    is_constructor_call,
)
from fastinit.recipes.names import walk

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
_LISTS = ("Sequential", "ModuleList", "list", "tuple")
_DICTIONARIES = ("ModuleDict", "OrderedDict", "dict")


class Makers:
    """Tells the arguments that modules of a model were made with.

    Args:
        root: the model, whose own arguments nobody knows.
    """

    def __init__(self, root: nn.Module) -> None:
        self._root = root
        self._constructors: dict[int, _Constructor | None] = {}
        self.again = Again(lambda tensor: ())

    def __call__(self, module: nn.Module, function: FunctionType) -> Passed | None:
        """The arguments of the call of `function`, its constructor, that made a module.

        None if it is not found.
        """
        found = self._places.get(id(module))
        if found is None:
            return None
        owner, (attribute, *path) = found
        constructor = self._constructor(owner)
        place = None if constructor is None else constructor.made.get(attribute)
        if constructor is None or place is None:
            return None
        try:
            return self._called(place, path, module, function)
        except Exception:  # of whatever it is made of
            return None
        finally:  # what the way there assumed has been proved by finding a call that fits
            self.again.now = set(constructor.assumed.get(attribute, ()))

    @functools.cached_property
    def _places(self) -> dict[int, tuple[nn.Module, list[str]]]:
        """For each module the nearest one with a constructor around it, and the way from there."""
        found: dict[int, tuple[nn.Module, list[str]]] = {}
        owners: dict[str, tuple[nn.Module, list[str]]] = {}
        for site in walk(self._root):
            module, (outside, _, step) = site.link[0], site.name.rpartition(".")
            if site.name and outside in owners:
                owner, path = owners[outside]
                found.setdefault(id(module), (owner, [*path, step]))
            plain = type(module) in _CONTAINERS and id(module) in found
            owners[site.name] = found[id(module)] if plain else (module, [])
        return found

    def _constructor(self, owner: nn.Module) -> _Constructor | None:
        if id(owner) not in self._constructors:
            found = constructor_of(type(owner).__mro__)
            source = None if found is None else source_of(found[1])
            self._constructors[id(owner)] = None  # while it is looked at
            if found is not None and source is not None:
                made = _Constructor(source, owner, found[0], None, self, self.again)
                around, self.again.around = self.again.around, frozenset()
                made.look()
                self.again.around = around
                self._constructors[id(owner)] = made
        return self._constructors[id(owner)]

    # -------------------------------------------------------------------------- to the call

    def _called(
        self, place: Written, path: Sequence[str], module: nn.Module, function: FunctionType
    ) -> Passed | None:
        """The arguments of what makes the module at a path within an expression."""
        inner = self._within(place, path)
        if inner is None:
            return None
        place, path = inner
        call = place.expression
        if path or not isinstance(call, ast.Call):
            return None
        kind: Any = place._replace(expression=call.func).value()
        fixed: dict[str, Any] = {}
        while isinstance(kind, functools.partial) and not kind.args:
            kind, fixed = kind.func, {**kind.keywords, **fixed}
        if not (isinstance(kind, type) and isinstance(module, kind)):
            return None
        return Passed(function, place, call.args, call.keywords, fixed)

    def _within(self, place: Written, path: Sequence[str]) -> tuple[Written, Sequence[str]] | None:
        """The expression that makes what lies at a path, and what is left of the path."""
        expression = place.expression
        if isinstance(expression, ast.Name):
            if expression.id in place.more:
                return None
            origin = place.values.origin(expression.id, place.known)
            return None if origin is None else self._within(origin, path)
        if isinstance(expression, ast.IfExp):
            holds = place._replace(expression=expression.test).value()
            branch = expression.body if holds else expression.orelse
            return self._within(place._replace(expression=branch), path)
        if not path:
            return place, path
        found = _element(place, path[0])
        return None if found is None else self._within(found, path[1:])


class _Constructor(Values):
    """A constructor that is looked through for what it puts into attributes of the module."""

    def __init__(
        self,
        source: Source,
        module: nn.Module,
        kind: type,
        passed: Passed | None,
        makers: Tell,
        again: Again,
    ) -> None:
        super().__init__(source, module, passed, makers, again)
        self._kind = kind
        self.made: dict[str, Written | None] = {}  # None: in several ways
        self.assumed: dict[str, frozenset[str]] = {}  # by conditions around it

    def look(self) -> None:
        """Go through its statements."""
        self._block(self._source.tree.body)

    def _block(self, body: Sequence[ast.stmt]) -> bool:
        return all(self._statement(statement) for statement in body)

    def _statement(self, statement: ast.stmt) -> bool:
        go_on = True
        if isinstance(statement, ast.If):
            go_on = self._choice(statement)
        elif isinstance(statement, ast.With | ast.Try):
            go_on = self._block(statement.body)
        elif isinstance(statement, ast.Return):
            return False
        elif isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call):
            self._call(statement.value)
        else:
            for attribute, expression in _attributes(statement, self._source.own):
                self._make(attribute, expression)
        self.note(statement)
        return go_on

    def _make(self, attribute: str, expression: ast.expr) -> None:
        self.made[attribute] = self.here(expression)
        self.assumed[attribute] = self._again.around

    def _choice(self, statement: ast.If) -> bool:
        again = self._again
        before, again.now = again.now, set()
        try:
            holds = bool(self._value(statement.test))
            assumed = frozenset(again.now)
        except Exception:
            parts = [part for branch in (statement.body, statement.orelse) for part in branch]
            for part in (part for top in parts for part in ast.walk(top)):
                for attribute, _ in _attributes(part, self._source.own):
                    self.made[attribute] = None
            return True
        finally:
            again.now = before
        around, again.around = again.around, again.around | assumed
        try:
            return self._block(statement.body if holds else statement.orelse)
        finally:
            again.around = around

    def _call(self, call: ast.Call) -> None:
        words = dotted(call.func)
        if is_constructor_call(call):
            found = self._constructor_called(call, self._kind)
            source = None if found is None else source_of(found[1])
            if found is not None and source is not None:
                kind, _, passed = found
                parent = _Constructor(source, self._module, kind, passed, self._makers, self._again)
                parent.look()
                self.made |= parent.made
                self.assumed |= parent.assumed
        elif words == f"{self._source.own}.add_module" and len(call.args) == 2:
            name, expression = call.args
            if isinstance(name, ast.Constant):
                self._make(str(name.value), expression)


def _attributes(statement: ast.AST, own: str) -> Iterator[tuple[str, ast.expr]]:
    """The attributes of the module that a statement assigns, and the expressions they get."""
    targets: Sequence[ast.expr] = ()
    if isinstance(statement, ast.Assign):
        targets = statement.targets
    elif isinstance(statement, ast.AnnAssign):
        targets = [statement.target]
    for target in targets:
        words = dotted(target).split(".")
        value = getattr(statement, "value", None)
        if isinstance(target, ast.Attribute) and words[0] == own and len(words) == 2 and value:
            yield words[1], value


def _element(place: Written, step: str) -> Written | None:
    """The expression of one element of a list or dictionary, by the name that it has there."""
    expression = place.expression
    if isinstance(expression, ast.Call):
        last, arguments = dotted(expression.func).split(".")[-1], expression.args
        if last in _DICTIONARIES and not arguments:
            named = {word.arg: word.value for word in expression.keywords}
            return place._replace(expression=named[step]) if step in named else None
        if last not in _LISTS + _DICTIONARIES:
            return None
        if last != "Sequential" or _holds_names(arguments):
            return _element(place._replace(expression=arguments[0]), step)
        return _element(place._replace(expression=ast.List(arguments, ast.Load())), step)
    if isinstance(expression, ast.Dict):
        return _keyed(place, step, zip(expression.keys, expression.values, strict=True))
    if isinstance(expression, ast.ListComp | ast.GeneratorExp):
        return _of_comprehension(place, expression, step)
    if isinstance(expression, ast.List | ast.Tuple):
        parts = expression.elts
        if len(parts) == 1 and isinstance(parts[0], ast.Starred):
            return _element(place._replace(expression=parts[0].value), step)
        pairs = [part.elts for part in parts if isinstance(part, ast.Tuple)]
        if pairs and len(pairs) == len(parts):
            return _keyed(place, step, ((pair[0], pair[1]) for pair in pairs))
        before = parts[: int(step) + 1]
        if not any(isinstance(part, ast.Starred) for part in before):
            return place._replace(expression=before[int(step)])
    return None


def _holds_names(arguments: Sequence[ast.expr]) -> bool:
    """Whether what a Sequential is made of is one dictionary."""
    if len(arguments) != 1:
        return False
    only = arguments[0]
    return isinstance(only, ast.Call) and dotted(only.func).split(".")[-1] in _DICTIONARIES


def _keyed(
    place: Written, step: str, pairs: Iterator[tuple[ast.expr | None, ast.expr]]
) -> Written | None:
    for key, value in pairs:
        if isinstance(key, ast.Constant) and str(key.value) == step:
            return place._replace(expression=value)
    return None


def _of_comprehension(
    place: Written, expression: ast.ListComp | ast.GeneratorExp, step: str
) -> Written | None:
    generator, *more = expression.generators
    if more or generator.ifs:
        return None
    items = place._replace(expression=generator.iter).value()
    item = list(items)[int(step)]
    bound = dict(_bound(generator.target, item))
    return place._replace(expression=expression.elt, more={**place.more, **bound})


def _bound(target: ast.expr, item: Any) -> Iterator[tuple[str, Any]]:
    """The names that a loop gives values to."""
    if isinstance(target, ast.Name):
        yield target.id, item
    elif isinstance(target, ast.Tuple | ast.List):
        for part, value in zip(target.elts, item, strict=True):
            yield from _bound(part, value)
    else:
        raise UnknownError("the loop does not name what it goes over")
