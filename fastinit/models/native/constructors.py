"""What a module's constructor did to its parameters, done again.

Owns the values of the names in its statements: attributes that the constructor kept, defaults, and
what follows from these. Many models initialize in constructors and nowhere else. Must not know
whose tensors are written.
"""

from __future__ import annotations

import ast
import functools
import inspect
from collections.abc import Callable, Mapping
from types import FunctionType
from typing import Any, NamedTuple, TypeAlias

from torch import Tensor, nn

from fastinit.models.native.factories import TENSOR, factories, fits, in_place, replaced
from fastinit.models.native.statements import (
    Source,
    assignments,
    dotted,
    inside_parameter,
    source_of,
)

Given: TypeAlias = Mapping[str, Callable[[], Any]]  # arguments, evaluated when wanted

_DEEPEST = 4  # methods that call methods


class Problem(NamedTuple):
    """A statement that could not be run again."""

    statement: str
    reason: str


class Again:
    """The outcome of running a constructor's initialization again."""

    def __init__(self) -> None:
        self.ran = 0  # statements
        self.assumed: set[str] = set()  # arguments of whose values only the default is known
        self.problems: list[Problem] = []


class _UnknownError(Exception):
    """A name whose value the module does not tell."""


def construct_again(module: nn.Module, *, skip: frozenset[str] = frozenset()) -> Again:
    """Run the statements of the module's constructor that write its parameters and buffers.

    Args:
        module: whose tensors are written; those of its children should have been.
        skip: methods that are somebody else's to call.
    """
    again = Again()
    found = _constructor(list(type(module).__mro__))
    if found is not None:
        place, function = found
        _run(function, module, place, {}, skip, again, 0)
    return again


def _constructor(kinds: list[type]) -> tuple[type, FunctionType] | None:
    """The first of these classes with an `__init__` of its own, but for nn.Module's."""
    for kind in kinds:
        if kind in (nn.Module, object):
            return None
        function = vars(kind).get("__init__")
        function = inspect.unwrap(function) if callable(function) else None
        if isinstance(function, FunctionType):
            return kind, function
    return None


def _run(
    function: FunctionType,
    module: nn.Module,
    kind: type,
    given: Given,
    skip: frozenset[str],
    again: Again,
    depth: int,
) -> None:
    source = source_of(function)
    if source is not None and depth <= _DEEPEST:
        _Body(source, module, kind, given, skip, again, depth).run(source.tree.body)


class _Body:
    """The body of a constructor, or of a method that one calls, run again for one module."""

    def __init__(
        self,
        source: Source,
        module: nn.Module,
        kind: type,
        given: Given,
        skip: frozenset[str],
        again: Again,
        depth: int,
    ) -> None:
        self._source, self._module, self._kind = source, module, kind
        self._given, self._skip, self._again, self._depth = given, skip, again, depth
        self._defined: dict[str, list[ast.stmt]] = {}  # what assigned or changed each so far
        self._known: dict[str, int] = {}  # how many of these count while one is evaluated

    # ------------------------------------------------------------------------ the statements

    def run(self, body: list[ast.stmt]) -> bool:
        """Run a block; False if it returned."""
        return all(self._statement(statement) for statement in body)

    def _statement(self, statement: ast.stmt) -> bool:
        if isinstance(statement, ast.Return):
            return False
        try:
            block = isinstance(statement, ast.If | ast.With | ast.Try)
            if block and self._source.matters(statement):
                return self._block(statement)
            self._simple(statement)
        except Exception as error:
            reason = f"{type(error).__name__}: {error}".replace("_UnknownError: ", "")
            text = ast.unparse(statement).split("\n")[0]
            self._again.problems.append(Problem(text, reason))
        for name in self._source.touched(statement):
            self._defined.setdefault(name, []).append(statement)
        return True

    def _block(self, statement: Any) -> bool:
        if not isinstance(statement, ast.If):
            return self.run(statement.body)
        for branch, other in ((statement.body, statement.orelse), (statement.orelse, [])):
            # A parameter that is there was made here, so the condition need not be known.
            if self._source.only_holds(branch) and not any(map(self._source.matters, other)):
                return self.run(branch)
        return self.run(statement.body if self._test(statement) else statement.orelse)

    def _test(self, statement: ast.If) -> bool:
        """Whether the condition held, told by what was made if its value is not known."""
        try:
            return bool(self._value(statement.test))
        except _UnknownError:
            made, other = map(self._source.made, (statement.body, statement.orelse))
            for names, answer in ((made - other, True), (other - made, False)):
                if any(self._tensor(name) is not None for name in names):
                    return answer
            if made and not other:
                return False
            raise

    def _simple(self, statement: ast.stmt) -> None:
        if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call):
            self._call(statement, statement.value)
        elif isinstance(statement, ast.Assign):
            for target in statement.targets:
                self._assign(statement, target, statement.value)
        elif isinstance(statement, ast.AnnAssign) and statement.value is not None:
            self._assign(statement, statement.target, statement.value)
        elif isinstance(statement, ast.AugAssign):
            if self._source.is_tensor(statement.target):
                self._execute(statement)
        elif isinstance(statement, ast.For) and self._source.matters(statement):
            self._execute(statement)

    def _call(self, statement: ast.stmt, call: ast.Call) -> None:
        words = dotted(call.func)
        last = words.split(".")[-1]
        if last == "__init__":
            self._parent(call)
        elif words == f"{self._source.own}.register_buffer":
            named = {word.arg: word.value for word in call.keywords}
            name = call.args[0] if call.args else named["name"]
            value = call.args[1] if len(call.args) > 1 else named["tensor"]
            self._write(self._tensor(str(self._value(name))), value)
        elif self._source.is_own_method(call):
            if last in self._skip:
                return
            if self._source.is_initialization(call):
                self._execute(statement)
            else:
                self._method(last, call)
        elif self._source.is_initialization(call):
            self._execute(statement)

    def _parent(self, call: ast.Call) -> None:
        """Another constructor, by super() or by the name of its class."""
        order = list(type(self._module).__mro__)
        kinds, arguments = order[order.index(self._kind) + 1 :], call.args
        if isinstance(call.func, ast.Attribute) and not isinstance(call.func.value, ast.Call):
            kind = self._value(call.func.value)
            kinds = order[order.index(kind) :] if kind in order else []
            arguments = arguments[1:]  # self
        found = _constructor(kinds)
        if found is not None:
            kind, function = found
            given = self._arguments(function, arguments, call.keywords)
            _run(function, self._module, kind, given, self._skip, self._again, self._depth)

    def _method(self, name: str, call: ast.Call) -> None:
        """A method that the constructor calls, which may initialize among other things."""
        function = inspect.unwrap(getattr(type(self._module), name, len))
        if isinstance(function, FunctionType) and function.__module__.split(".")[0] != "torch":
            given = self._arguments(function, call.args, call.keywords)
            kind, again = self._kind, self._again
            _run(function, self._module, kind, given, self._skip, again, self._depth + 1)

    def _arguments(
        self, function: FunctionType, arguments: list[ast.expr], keywords: list[ast.keyword]
    ) -> Given:
        names = list(inspect.signature(function).parameters)[1:]
        if any(isinstance(argument, ast.Starred) for argument in arguments):
            arguments = []
        pairs = [
            *zip(names, arguments, strict=False),
            *((word.arg, word.value) for word in keywords if word.arg is not None),
        ]
        return {name: functools.partial(self._value, value) for name, value in pairs}

    def _assign(self, statement: ast.stmt, target: ast.expr, value: ast.expr) -> None:
        if isinstance(target, ast.Subscript):
            if self._source.is_tensor(target) or self._is_tensor(target.value):
                self._execute(statement)
        elif isinstance(target, ast.Attribute):
            path = dotted(target).removesuffix(".data").split(".")
            if path[0] == self._source.own and len(path) == 2:
                self._write(self._tensor(path[1]), inside_parameter(value))
            elif target.attr == "data" and path[0] == self._source.own:
                self._execute(statement)

    def _is_tensor(self, target: ast.expr) -> bool:
        path = dotted(target).split(".")
        return len(path) == 2 and path[0] == self._source.own and self._tensor(path[1]) is not None

    # ------------------------------------------------------------------------------ the values

    def _tensor(self, name: str) -> Tensor | None:
        """A parameter or buffer of the module itself."""
        found = self._module._parameters.get(name)
        return self._module._buffers.get(name) if found is None else found

    def _write(self, tensor: Tensor | None, value: ast.expr) -> None:
        """Give the tensor the value of an expression; leave it as it is if that is not known.

        That it was left shows later, if nothing else writes it.
        """
        if tensor is None:
            return
        if isinstance(value, ast.Name) and value.id in self._defined:
            # Computed in the tensor, if it can be: what is drawn there has the tensor's key.
            known = dict(assignments(self._defined[value.id][-1])).get(value.id)
            value = value if known is None else inside_parameter(known)
        made = factories(value)
        if len(made) == 1:
            result = in_place(tensor, value, made[0], self._try)
        else:
            result = self._try(value, {})
            if len(made) > 1 and not fits(result, tensor):
                result = self._try(replaced(value, {id(call): "new" for call in made}), {
                    TENSOR: tensor.detach()
                })  # fmt: skip
        if not fits(result, tensor) or result is tensor:
            return
        first = result.flatten()[:1]
        if result.numel() and bool((result == first).all()):
            tensor.fill_(first.item())
        else:
            tensor.copy_(result)

    # ------------------------------------------------------------------------------ the names

    def _execute(self, statement: ast.stmt) -> None:
        names = self._names(statement, {})
        module = self._module
        before = dict(module._modules)
        exec(self._source.code(statement), names)
        if before != module._modules:
            module._modules.clear()
            module._modules.update(before)
            raise _UnknownError("it makes modules anew")
        self._again.ran += 1

    def _value(self, expression: ast.expr, more: Mapping[str, Any] | None = None) -> Any:
        return eval(self._source.code(expression), self._names(expression, more or {}))

    def _try(self, expression: ast.expr, more: Mapping[str, Any]) -> Any:
        try:
            return self._value(expression, more)
        except Exception:
            return None

    def _names(self, node: ast.AST, more: Mapping[str, Any]) -> dict[str, Any]:
        """Globals in which the node runs: those of the function and its locals."""
        values = {name: self._local(name) for name in self._source.names(node)}
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
                    raise _UnknownError(f"{name} is a module that is not known by that name")
                return found
            except LookupError:
                continue
            finally:
                if before is None:
                    del self._known[name]
                else:
                    self._known[name] = before
        if name not in self._source.signature.parameters:
            raise _UnknownError(f"{name} is known to the constructor only")
        return self._argument(name)

    def _after(self, statement: ast.stmt, name: str) -> Any:
        """The value of a name after a statement; a LookupError if that did not touch it."""
        if name not in self._source.touched(statement):
            raise LookupError(name)
        if isinstance(statement, ast.If):
            branch = statement.body if self._value(statement.test) else statement.orelse
            touching = [part for part in branch if name in self._source.touched(part)]
            if len(touching) > 1:
                raise _UnknownError(f"{name} is computed in several steps")
            if not touching:
                raise LookupError(name)
            return self._after(touching[0], name)
        if not isinstance(statement, ast.Assign | ast.AnnAssign | ast.AugAssign | ast.Expr):
            raise _UnknownError(f"{name} is computed in a loop")
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
        if name in self._given:
            return self._given[name]()
        parameter = self._source.signature.parameters[name]
        attribute = getattr(self._module, name, None)
        if attribute is not None and not isinstance(attribute, nn.Module | Tensor):
            return attribute
        if name == "dtype":  # it may have been another than the default
            held = [*self._module._parameters.values(), *self._module._buffers.values()]
            kinds = [tensor.dtype for tensor in held if tensor is not None]
            return next((kind for kind in kinds if kind.is_floating_point), None)
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            return {}
        if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
            return ()
        if parameter.default is inspect.Parameter.empty:
            raise _UnknownError(f"{name} is an argument that the module does not keep")
        if name != "device":
            self._again.assumed.add(f"{name}={parameter.default!r}")
        return parameter.default

    def _kept(self, name: str) -> Any:
        """The attribute that a local variable or an argument was put into, if there is one."""
        for words in self._source.kept(name):
            found: Any = self._module
            for word in words:
                found = getattr(found, word, None)
            if found is not None:
                return found
        return None
