"""What a module's constructor did to its parameters, done again.

Owns which of its statements run: many models initialize in constructors and nowhere else. What the
names in them stand for is `values`'s to find. Must not know whose tensors are written.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Mapping, Sequence
from types import FunctionType
from typing import Any

from torch import Tensor, nn

from fastinit.models.native.factories import TENSOR, factories, fits, in_place, replaced
from fastinit.models.native.statements import (
    assignments,
    dotted,
    inside_parameter,
    source_of,
)
from fastinit.models.native.values import (
    Again,
    Guess,
    Passed,
    Problem,
    Tell,
    UnknownError,
    Values,
    constructor_of,
    is_constructor_call,
)

_DEEPEST = 4  # methods that call methods


def construct_again(
    module: nn.Module,
    makers: Tell,
    state: Callable[[Tensor], Sequence[object]] = lambda tensor: (),
    *,
    skip: frozenset[str] = frozenset(),
) -> Again:
    """Run the statements of the module's constructor that write its parameters and buffers.

    Args:
        module: whose tensors are written; those of its children should have been.
        makers: what tells the arguments that modules were made with.
        state: what waits for a tensor.
        skip: methods that are somebody else's to call.
    """
    again = Again(state)
    found = constructor_of(type(module).__mro__)
    if found is not None:
        kind, function = found
        source = source_of(function)
        if source is not None:
            body = _Body(source, module, None, makers, again)
            body.kind, body.skip = kind, skip
            body.run(source.tree.body)
    return again


class _Body(Values):
    """The body of a constructor, or of a method that one calls, run again for one module."""

    kind: type = nn.Module  # whose function it is
    skip: frozenset[str] = frozenset()
    depth = 0

    # ------------------------------------------------------------------------ the statements

    def run(self, body: list[ast.stmt]) -> bool:
        """Run a block; False if it returned."""
        return all(self._statement(statement) for statement in body)

    def _statement(self, statement: ast.stmt) -> bool:
        if isinstance(statement, ast.Return):
            return False
        again, before = self._again, self._again.now
        again.now = set()
        try:
            block = isinstance(statement, ast.If | ast.With | ast.Try)
            if block and self._source.matters(statement):
                return self._block(statement)
            self._simple(statement)
        except Exception as error:
            reason = f"{type(error).__name__}: {error}".replace("UnknownError: ", "")
            text = ast.unparse(statement).split("\n")[0]
            again.problems.append(Problem(text, reason))
        finally:
            again.assumed |= again.now
            again.now = before
        self.note(statement)
        return True

    def _block(self, statement: Any) -> bool:
        if not isinstance(statement, ast.If):
            return self.run(statement.body)
        for branch, other in ((statement.body, statement.orelse), (statement.orelse, [])):
            # A parameter that is there was made here, so the condition need not be known.
            if self._source.only_holds(branch) and not any(map(self._source.matters, other)):
                return self.run(branch)
        again, before = self._again, self._again.around
        branch = statement.body if self._test(statement) else statement.orelse
        again.around = again.rests()
        try:
            return self.run(branch)
        finally:
            again.around = before

    def _test(self, statement: ast.If) -> bool:
        """Whether the condition held, told by what was made if its value is not known."""
        try:
            return bool(self._value(statement.test))
        except UnknownError:
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
        if is_constructor_call(call):
            found = self._constructor_called(call, self.kind)
            if found is not None:
                self._inside(*found, self.depth)
        elif words == f"{self._source.own}.register_buffer":
            named = {word.arg: word.value for word in call.keywords}
            name = call.args[0] if call.args else named["name"]
            value = call.args[1] if len(call.args) > 1 else named["tensor"]
            self._write(self._tensor(str(self._value(name))), value)
        elif self._source.is_own_method(call):
            if last in self.skip:
                return
            if self._source.is_initialization(call):
                self._execute(statement, in_part=True)
            else:
                self._method(last, call)
        elif self._source.is_initialization(call):
            self._execute(statement)

    def _method(self, name: str, call: ast.Call) -> None:
        """A method that the constructor calls, which may initialize among other things."""
        function = inspect.unwrap(getattr(type(self._module), name, len))
        if isinstance(function, FunctionType) and function.__module__.split(".")[0] != "torch":
            passed = self._arguments(function, call.args, call)
            self._inside(self.kind, function, passed, self.depth + 1)

    def _inside(self, kind: type, function: FunctionType, passed: Passed, depth: int) -> None:
        """Run the body of another function of the module."""
        source = source_of(function)
        if source is not None and depth <= _DEEPEST:
            body = _Body(source, self._module, passed, self._makers, self._again)
            body.kind, body.skip, body.depth = kind, self.skip, depth
            body.run(source.tree.body)

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
        self._again.guess(tensor)
        if not fits(result, tensor) or result is tensor:
            return
        first = result.flatten()[:1]
        if result.numel() and bool((result == first).all()):
            tensor.fill_(first.item())
        else:
            tensor.copy_(result)
        self._again.guess(tensor)

    def _execute(self, statement: ast.stmt, *, in_part: bool = False) -> None:
        """Run a statement; in_part: only some of what it writes rests on what it assumes."""
        names = self._names(statement, {})
        module = self._module
        before = dict(module._modules)
        again = self._again
        tensors = list(module.parameters()) if again.rests() and not in_part else []
        states = [again.state(tensor) for tensor in tensors]
        exec(self._source.code(statement), names)
        for tensor, state in zip(tensors, states, strict=True):
            if not Guess(again.rests(), state).holds(again.state(tensor)):
                again.guess(tensor)
        if before != module._modules:
            module._modules.clear()
            module._modules.update(before)
            raise UnknownError("it makes modules anew")
        again.ran += 1

    def _try(self, expression: ast.expr, more: Mapping[str, Any]) -> Any:
        try:
            return self._value(expression, more)
        except Exception:
            return None
