"""Values of the names in a constructor's statements, long after it has run.

Owns how they are found: attributes that the constructor kept, what follows from other names, the
arguments of the call that made the module, defaults. Must not know what the statements are for.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Mapping, Sequence
from types import FunctionType
from typing import Any, NamedTuple, Protocol

from torch import Tensor, nn

from fastinit.models.native.statements import Source, assignments, dotted


class Problem(NamedTuple):
    """A statement that could not be run again."""

    statement: str
    reason: str


class Again:
    """The outcome of running a constructor's initialization again.

    Args:
        state: what waits for a tensor.
    """

    def __init__(self, state: Callable[[Tensor], Sequence[object]]) -> None:
        self.ran = 0  # statements
        self.assumed: set[str] = set()  # arguments of whose values only the default is known
        self.problems: list[Problem] = []
        # By the tensor's id: what its values rest on of these, and its state then.
        self.guesses: dict[int, Guess] = {}
        self.now: set[str] = set()  # what the statement at hand assumes
        self.around: frozenset[str] = frozenset()  # what the conditions around it assume
        self.state = state

    def rests(self) -> frozenset[str]:
        """What writes at this place rest on."""
        return self.around | self.now

    def guess(self, tensor: Tensor) -> None:
        """Take down what the values that were written to a tensor just now rest on."""
        if self.rests():
            self.guesses[id(tensor)] = Guess(self.rests(), self.state(tensor))


class Guess(NamedTuple):
    """Assumptions that a tensor's values rest on, as long as that is its state."""

    assumed: frozenset[str]
    state: Sequence[object]

    def holds(self, state: Sequence[object]) -> bool:
        """Whether nothing else has been written since."""
        return self.state == state


class UnknownError(Exception):
    """A name whose value the module does not tell."""


class Written(NamedTuple):
    """An expression at its place in a constructor, where its names have their values.

    Args:
        values: of the names there.
        expression: to be evaluated.
        known: how many of the statements that define each name come before it.
        more: values of names that a loop has there.
    """

    values: Values
    expression: ast.expr
    known: Mapping[str, int]
    more: Mapping[str, Any]

    def value(self) -> Any:
        """What it comes to."""
        return self.values.value_at(self)


class Passed:
    """The arguments of a call."""

    def __init__(
        self,
        function: FunctionType,
        place: Written,
        arguments: Sequence[ast.expr],
        keywords: Sequence[ast.keyword],
        fixed: Mapping[str, Any] | None = None,
    ) -> None:
        self._place = place
        self._fixed = fixed or {}  # of a partial
        self._names = list(inspect.signature(function).parameters)[1:]
        self._open = False  # whether positions cannot be told
        self._told: dict[str, ast.expr] = {}
        self._splats = [word.value for word in keywords if word.arg is None]
        for name, argument in zip(self._names, arguments, strict=False):
            if isinstance(argument, ast.Starred):
                self._open = True
                break
            self._told[name] = argument
        self._told |= {word.arg: word.value for word in keywords if word.arg is not None}

    def written(self, name: str) -> Written:
        """The expression of an argument; a LookupError if the call has none."""
        return self._place._replace(expression=self._told[name])

    def value(self, name: str) -> Any:
        """The value of an argument.

        Raises:
            LookupError: it surely was not passed.
            UnknownError: nobody can tell.
        """
        if name in self._told:
            return self.written(name).value()
        for splat in self._splats:
            given = self._place._replace(expression=splat).value()
            if name in given:
                return given[name]
        if name in self._fixed:
            return self._fixed[name]
        if self._open:
            raise UnknownError(f"{name} may be among arguments that are not told apart")
        raise LookupError(name)

    def rest(self) -> dict[str, Any]:
        """Keywords that the function has no names for."""
        found = {name: value for name, value in self._fixed.items() if name not in self._names}
        for splat in self._splats:
            given = self._place._replace(expression=splat).value()
            found |= {name: value for name, value in given.items() if name not in self._names}
        told = [name for name in self._told if name not in self._names]
        return {**found, **{name: self.written(name).value() for name in told}}


class Tell(Protocol):
    """What tells the arguments of the call that made a module, or None."""

    again: Again  # which notes what it assumes

    def __call__(self, module: nn.Module, function: FunctionType) -> Passed | None:
        """Those of the call of `function`, the module's constructor."""


class Values:
    """The values of names in the body of a constructor, or of a method that one calls."""

    def __init__(
        self,
        source: Source,
        module: nn.Module,
        passed: Passed | None,
        makers: Tell,
        again: Again,
    ) -> None:
        self._source, self._module = source, module
        self._passed, self._makers, self._again = passed, makers, again
        self._defined: dict[str, list[ast.stmt]] = {}  # what assigned or changed each so far
        self._known: dict[str, int] = {}  # how many of these count while one is evaluated

    def note(self, statement: ast.stmt) -> None:
        """Take down what a statement defines."""
        for name in self._source.touched(statement):
            self._defined.setdefault(name, []).append(statement)

    def here(self, expression: ast.expr) -> Written:
        """An expression that stands behind all statements noted so far."""
        known = {name: len(found) for name, found in self._defined.items()}
        return Written(self, expression, known, {})

    def value_at(self, place: Written) -> Any:
        """The value of an expression at its place."""
        before = self._known
        self._known = {**dict.fromkeys(self._source.locals, 0), **place.known}
        try:
            return self._value(place.expression, place.more)
        finally:
            self._known = before

    def origin(self, name: str, known: Mapping[str, int]) -> Written | None:
        """The expression that a name was assigned last, or passed, if that is all that happened."""
        statements = self._defined.get(name, [])[: known.get(name, 0)]
        if statements:
            plain = dict(assignments(statements[-1])).get(name)
            before = {**known, name: len(statements) - 1}
            return None if plain is None else Written(self, plain, before, {})
        if name not in self._source.signature.parameters:
            return None
        passed = self._passed or self._makers(self._module, self._source.function)
        try:
            return None if passed is None else passed.written(name)
        except LookupError:
            return None

    def _tensor(self, name: str) -> Tensor | None:
        """A parameter or buffer of the module itself."""
        found = self._module._parameters.get(name)
        return self._module._buffers.get(name) if found is None else found

    def _value(self, expression: ast.expr, more: Mapping[str, Any] | None = None) -> Any:
        return eval(self._source.code(expression), self._names(expression, more or {}))

    def _names(self, node: ast.AST, more: Mapping[str, Any]) -> dict[str, Any]:
        """Globals in which the node runs: those of the function and its locals."""
        wanted = [name for name in self._source.names(node) if name not in more]
        values = {name: self._local(name) for name in wanted}
        source = self._source
        return {**source.function.__globals__, **source.closure, **values, **more}

    def _local(self, name: str) -> Any:
        if name == self._source.own:
            return self._module
        kept = self._kept(name)
        if kept is not None:
            return kept
        defined = self._defined.get(name, [])
        for place in range(self._known.get(name, len(defined)) - 1, -1, -1):
            before = self._known.get(name)
            self._known[name] = place  # while it is evaluated, only what came before counts
            try:
                found = self._after(defined[place], name)
                if isinstance(found, nn.Module) and any(True for _ in found.parameters()):
                    raise UnknownError(f"{name} is a module that is not known by that name")
                return found
            except LookupError:
                continue
            finally:
                if before is None:
                    del self._known[name]
                else:
                    self._known[name] = before
        if name not in self._source.signature.parameters:
            raise UnknownError(f"{name} is known to the constructor only")
        return self._argument(name)

    def _after(self, statement: ast.stmt, name: str) -> Any:
        """The value of a name after a statement; a LookupError if that did not touch it."""
        if name not in self._source.touched(statement):
            raise LookupError(name)
        if isinstance(statement, ast.If):
            branch = statement.body if self._value(statement.test) else statement.orelse
            touching = [part for part in branch if name in self._source.touched(part)]
            if len(touching) > 1:
                raise UnknownError(f"{name} is computed in several steps")
            if not touching:
                raise LookupError(name)
            return self._after(touching[0], name)
        if not isinstance(statement, ast.Assign | ast.AnnAssign | ast.AugAssign | ast.Expr):
            raise UnknownError(f"{name} is computed in a loop")
        plain = dict(assignments(statement)).get(name)
        if plain is not None:
            return self._value(plain)
        is_new = isinstance(statement, ast.Assign) and any(
            isinstance(part, ast.Name) and part.id == name and isinstance(part.ctx, ast.Store)
            for part in ast.walk(statement)
        )
        names = self._names(statement, {} if is_new else {name: self._local(name)})
        exec(self._source.code(statement), names)
        return names[name]

    def _argument(self, name: str) -> Any:
        parameter = self._source.signature.parameters[name]
        for tell in (self._told, self._held, self._told_by_maker):
            try:
                return tell(parameter)
            except UnknownError:
                continue
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            return {}
        if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
            return ()
        if parameter.default is inspect.Parameter.empty:
            raise UnknownError(f"{name} is an argument that the module does not keep")
        if name != "device":
            self._again.now.add(f"{name}={parameter.default!r}")
        return parameter.default

    def _told(self, parameter: inspect.Parameter) -> Any:
        """The argument of a call whose arguments are known."""
        return _of_call(self._passed, parameter)

    def _held(self, parameter: inspect.Parameter) -> Any:
        """The argument as the module has it."""
        attribute = getattr(self._module, parameter.name, None)
        if attribute is not None and not isinstance(attribute, nn.Module | Tensor):
            return attribute
        if parameter.name == "dtype":  # it may have been another than the default
            held = [*self._module._parameters.values(), *self._module._buffers.values()]
            kinds = [tensor.dtype for tensor in held if tensor is not None]
            return next((kind for kind in kinds if kind.is_floating_point), None)
        raise UnknownError(f"the module does not keep {parameter.name}")

    def _told_by_maker(self, parameter: inspect.Parameter) -> Any:
        """The argument that the module was made with."""
        if self._passed is not None:
            raise UnknownError(f"the call does not tell {parameter.name}")
        theirs = self._makers.again
        before, theirs.now = theirs.now, set()
        try:
            return _of_call(self._makers(self._module, self._source.function), parameter)
        finally:
            found, theirs.now = theirs.now, before
            self._again.now |= found

    def _arguments(
        self, function: FunctionType, arguments: Sequence[ast.expr], call: ast.Call
    ) -> Passed:
        """Those of a call that stands behind all statements noted so far."""
        return Passed(function, self.here(call), arguments, call.keywords)

    def _constructor_called(
        self, call: ast.Call, kind: type
    ) -> tuple[type, FunctionType, Passed] | None:
        """Another constructor that is called, by super() or by the name of its class."""
        order = list(type(self._module).__mro__)
        kinds, arguments = order[order.index(kind) + 1 :], call.args
        if isinstance(call.func, ast.Attribute) and not isinstance(call.func.value, ast.Call):
            named = self._value(call.func.value)
            kinds = order[order.index(named) :] if named in order else []
            arguments = arguments[1:]  # self
        found = constructor_of(kinds)
        return None if found is None else (*found, self._arguments(found[1], arguments, call))

    def _kept(self, name: str) -> Any:
        """The attribute that a local variable or an argument was put into, if there is one."""
        for words in self._source.kept(name):
            found: Any = self._module
            for word in words:
                found = getattr(found, word, None)
            if found is not None:
                return found
        return None


def constructor_of(kinds: Sequence[type]) -> tuple[type, FunctionType] | None:
    """The first of these classes with an `__init__` of its own, but for nn.Module's."""
    for kind in kinds:
        if kind in (nn.Module, object):
            return None
        function = vars(kind).get("__init__")
        function = inspect.unwrap(function) if callable(function) else None
        if isinstance(function, FunctionType):
            return kind, function
    return None


def _of_call(passed: Passed | None, parameter: inspect.Parameter) -> Any:
    if passed is None:
        raise UnknownError(f"no call tells {parameter.name}")
    if parameter.kind is inspect.Parameter.VAR_KEYWORD:
        return passed.rest()
    try:
        found = passed.value(parameter.name)
    except LookupError:
        if parameter.default is inspect.Parameter.empty:
            raise UnknownError(f"the call does not tell {parameter.name}") from None
        return parameter.default
    if isinstance(found, nn.Module):  # made anew
        raise UnknownError(f"{parameter.name} is a module that is not known by that name")
    return found


def is_constructor_call(call: ast.Call) -> bool:
    """Whether it calls a constructor, as of a parent class."""
    return dotted(call.func).split(".")[-1] == "__init__"
