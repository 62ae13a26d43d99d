"""Which statements of a constructor initialize tensors, told by their syntax.

Owns the reading of sources and what is kept of it for all modules of a class. Must not know any
module, nor the values of names.
"""

from __future__ import annotations

import ast
import functools
import inspect
import re
import textwrap
from collections.abc import Iterator
from types import CodeType, FunctionType

# Methods and functions that initialize, by the last part of their names.
_INITIALIZES = re.compile(
    r"(init|reset).*(weight|param)|(weight|param).*(init|reset)|^apply$|named_apply|[^_]_$"
)
_OTHERS = ("requires_grad_", "share_memory_", "rename_")
_HOLDERS = ("Parameter", "Buffer", "register_buffer")


class Source:
    """A function's syntax, and what has been found out about parts of it."""

    def __init__(self, function: FunctionType, tree: ast.FunctionDef) -> None:
        self.function = function
        self.tree = tree
        self.signature = inspect.signature(function)
        self.own = next(iter(self.signature.parameters), "self")  # what it calls the module
        code = function.__code__
        self.locals = {*code.co_varnames, *code.co_cellvars}
        self._code: dict[int, CodeType] = {}
        self._names: dict[int, list[str]] = {}
        self._matters: dict[int, bool] = {}
        self._touched: dict[int, frozenset[str]] = {}
        cells = zip(code.co_freevars, function.__closure__ or (), strict=True)
        self.closure = {name: cell.cell_contents for name, cell in cells if _is_filled(cell)}

    def touched(self, statement: ast.stmt) -> frozenset[str]:
        """The local variables that a statement assigns or changes, in whatever part of it."""
        if id(statement) not in self._touched:
            found = {name for part in ast.walk(statement) for name in _changed(part)}
            self._touched[id(statement)] = frozenset(found & self.locals - {self.own})
        return self._touched[id(statement)]

    def code(self, node: ast.AST) -> CodeType:
        """The compiled statement or expression."""
        if id(node) not in self._code:
            whole: ast.Module | ast.Expression
            whole = (
                ast.Expression(node) if isinstance(node, ast.expr) else ast.Module([node], [])  # type: ignore[list-item]
            )
            mode = "eval" if isinstance(node, ast.expr) else "exec"
            self._code[id(node)] = compile(whole, self.function.__code__.co_filename, mode)
        return self._code[id(node)]

    def names(self, node: ast.AST) -> list[str]:
        """The local variables and arguments whose values the node needs from outside itself."""
        if id(node) not in self._names:
            parts = list(ast.walk(node))
            bound = {
                p.id for p in parts if isinstance(p, ast.Name) and isinstance(p.ctx, ast.Store)
            }
            bound |= {part.arg for part in parts if isinstance(part, ast.arg)}
            used = {part.id for part in parts if isinstance(part, ast.Name)} - bound
            self._names[id(node)] = sorted(used & self.locals)
        return self._names[id(node)]

    @functools.cached_property
    def _attributes(self) -> dict[str, list[list[str]]]:
        found: dict[str, list[list[str]]] = {}
        for node in ast.walk(self.tree):
            if not isinstance(node, ast.Assign):
                continue
            for target in node.targets:
                words = dotted(target).split(".")
                if isinstance(target, ast.Attribute) and words[0] == self.own:
                    for name, inside in _kept_names(node.value):
                        found.setdefault(name, []).append([*words[1:], *inside])
        return found

    def kept(self, name: str) -> list[list[str]]:
        """The attributes of the module that a local variable is assigned to, as paths."""
        return self._attributes.get(name, [])

    def is_initialization(self, call: ast.Call) -> bool:
        """Whether the name of what is called says that it initializes."""
        last = dotted(call.func).split(".")[-1]
        if last.endswith("_init"):  # of another module; what one's own does is looked at
            return not self.is_own_method(call)
        return bool(_INITIALIZES.search(last)) and last not in _OTHERS

    def is_own_method(self, call: ast.Call) -> bool:
        """Whether it calls a method of the module itself."""
        words = dotted(call.func)
        plain = isinstance(call.func, ast.Attribute) and isinstance(call.func.value, ast.Name)
        return plain and words.startswith(f"{self.own}.")

    def matters(self, node: ast.AST) -> bool:
        """Whether a block holds anything that is to be done again."""
        if id(node) not in self._matters:
            self._matters[id(node)] = any(self._initializes(part) for part in ast.walk(node))
            if not isinstance(node, ast.For | ast.While):
                self._matters[id(node)] |= holds(node) or any(
                    isinstance(part, ast.Return) for part in ast.walk(node)
                )
        return self._matters[id(node)]

    def made(self, body: list[ast.stmt]) -> set[str]:
        """The names of the parameters and buffers that a block makes, as far as they are told."""
        found = set()
        for part in (part for statement in body for part in ast.walk(statement)):
            if isinstance(part, ast.Assign) and holds(part.value):
                paths = [dotted(target).split(".") for target in part.targets]
                found |= {path[1] for path in paths if len(path) == 2 and path[0] == self.own}
            elif isinstance(part, ast.Call) and dotted(part.func) == f"{self.own}.register_buffer":
                name = part.args[0] if part.args else None
                if isinstance(name, ast.Constant):
                    found.add(str(name.value))
        return found

    def only_holds(self, body: list[ast.stmt]) -> bool:
        """Whether all that matters in a block is which parameters and buffers it makes."""
        return any(map(holds, body)) and not any(
            self._initializes(part) or isinstance(part, ast.Return)
            for statement in body
            for part in ast.walk(statement)
        )

    def _initializes(self, part: ast.AST) -> bool:
        if isinstance(part, ast.Call):
            words = dotted(part.func)
            return self.is_initialization(part) or words.endswith("__init__")
        return isinstance(part, ast.AugAssign) and self.is_tensor(part.target)

    def is_tensor(self, target: ast.expr) -> bool:
        """Whether an assignment writes into a tensor of the module, as far as the name tells."""
        words = dotted(target).split(".")
        return words[0] == self.own and words[-1] in ("data", "weight", "bias")


def holds(node: ast.AST) -> bool:
    """Whether it makes parameters or buffers."""
    return any(
        isinstance(part, ast.Call) and dotted(part.func).split(".")[-1] in _HOLDERS
        for part in ast.walk(node)
    )


@functools.cache
def source_of(function: FunctionType) -> Source | None:
    """The function's source; None where there is none to be read."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function))).body[0]
    except (OSError, TypeError, SyntaxError, IndexError):
        return None
    return Source(function, tree) if isinstance(tree, ast.FunctionDef) else None


def assignments(node: ast.AST) -> Iterator[tuple[str, ast.expr]]:
    """The plain names that a statement assigns, and the expressions they get."""
    if isinstance(node, ast.Assign):
        for target in node.targets:
            if isinstance(target, ast.Name):
                yield target.id, node.value
    elif (
        isinstance(node, ast.AnnAssign)
        and isinstance(node.target, ast.Name)
        and node.value is not None
    ):
        yield node.target.id, node.value


def _kept_names(value: ast.expr) -> Iterator[tuple[str, list[str]]]:
    """The names whose values an expression is or, as a list of modules, holds, and where."""
    if isinstance(value, ast.Name):
        yield value.id, []
    elif isinstance(value, ast.Call) and dotted(value.func).endswith(("Sequential", "ModuleList")):
        parts = value.args
        if len(parts) == 1 and isinstance(parts[0], ast.List):
            parts = parts[0].elts
        for number, part in enumerate(parts):
            if isinstance(part, ast.Starred):
                break
            if isinstance(part, ast.Name):
                yield part.id, [str(number)]


def _changed(part: ast.AST) -> Iterator[str]:
    if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store):
        yield part.id
    elif isinstance(part, ast.Subscript | ast.Attribute) and isinstance(part.ctx, ast.Store):
        yield dotted(part).split(".")[0]
    elif isinstance(part, ast.Expr) and isinstance(part.value, ast.Call):
        yield dotted(part.value.func).split(".")[0]  # x.append(...), x.mul_(...)


def inside_parameter(value: ast.expr) -> ast.expr:
    """The tensor in `nn.Parameter(tensor)`, or the expression as it is."""
    if isinstance(value, ast.Call) and dotted(value.func).split(".")[-1] in ("Parameter", "Buffer"):
        inner = [*value.args, *(w.value for w in value.keywords if w.arg == "data")]
        return inner[0] if inner else value
    return value


def dotted(node: ast.AST) -> str:
    """The dotted name of an expression, as far as it is one: subscripts and calls are passed."""
    words: list[str] = []
    while True:
        if isinstance(node, ast.Attribute):
            words.append(node.attr)
            node = node.value
        elif isinstance(node, ast.Subscript):
            node = node.value
        elif isinstance(node, ast.Call):
            node = node.func
        else:
            break
    if isinstance(node, ast.Name):
        words.append(node.id)
    return ".".join(reversed(words))


def _is_filled(cell: object) -> bool:
    try:
        cell.cell_contents  # type: ignore[attr-defined]  # noqa: B018
    except ValueError:
        return False
    return True
