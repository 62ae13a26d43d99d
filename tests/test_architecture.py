"""The rules of the house that can be read off the sources; CONTRIBUTING.md states them."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FunctionType

import pytest

import fastinit

ROOT = Path(__file__).resolve().parents[1]
CSRC = ROOT / "csrc"
CODE = {".h", ".cpp", ".cu", ".cuh"}

COMMENT_OR_STRING = re.compile(
    r"""//[^\n]*|/\*.*?\*/|(?<=["(\s,=])"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])'""", re.DOTALL
)
INCLUDE = re.compile(r'^\s*#\s*include\s*(<[^>]+>|"[^"]+")', re.MULTILINE)

# Headers of the C++ standard that bring no mathematics and no allocation.
PLAIN_HEADERS = {
    "<cfloat>",
    "<climits>",
    "<cmath>",  # its constants and types; LIBM forbids the rest
    "<cstddef>",
    "<cstdint>",
    "<cstring>",
    "<limits>",
    "<type_traits>",
}
TORCH = re.compile(r"torch|ATen|c10|\bat::")
LIBM = re.compile(
    r"\bstd::(?:a?(?:sin|cos|tan)h?|atan2|exp2?|expm1|log(?:2|10|1p|b)?|pow|cbrt|hypot|[lt]gamma|"
    r"erfc?|fma|sqrt)\b"
    r"|(?<![\w:.])(?:__)?(?:a?(?:sin|cos|tan)h?|atan2|exp(?:2|10|m1)?|log(?:2|10|1p|b)?|pow|cbrt|"
    r"hypot|[lt]gamma|erfc?(?:inv|x)?|norm?cdf(?:inv)?|sincos(?:pi)?|rsqrt|fdividef?)[fl]?\s*\("
    r"|\b__builtin_(?:sin|cos|tan|exp|log|pow|erf|cbrt|hypot)\w*"
    r"|\b__(?:f(?:add|sub|mul|div|maf)|d(?:add|sub|mul|div)|fma|fsqrt|dsqrt)f?_r[zud]\b"
)


def sources(*rooms: str) -> list[Path]:
    """The C++ and CUDA files below csrc/ or some of its folders."""
    folders = [CSRC / room for room in rooms] if rooms else [CSRC]
    return sorted(p for folder in folders for p in folder.rglob("*") if p.suffix in CODE)


def name(path: Path) -> str:
    return str(path.relative_to(CSRC))


def code(path: Path) -> str:
    """A file without its comments and string literals."""
    return COMMENT_OR_STRING.sub(" ", path.read_text())


def includes(path: Path) -> Iterator[tuple[str, Path | None]]:
    """What a file includes, each with the file of ours that it means."""
    for written in INCLUDE.findall(path.read_text()):
        candidates = [folder / written[1:-1] for folder in (path.parent, CSRC)]
        ours = [c.resolve() for c in candidates if written[0] == '"' and c.is_file()]
        yield written, ours[0] if ours else None


def offences(paths: list[Path], pattern: re.Pattern[str]) -> list[str]:
    return [f"{name(p)}: {found[0]}" for p in paths for found in pattern.finditer(code(p))]


def test_there_is_something_to_look_at() -> None:
    assert len(sources("core")) > 5
    assert len(sources("cpu")) > 3
    assert {name(p) for p in sources()} > {"bindings.cpp", "ops/ops.cpp", "ops/ops.h", "kernels.h"}


# The C++ side.


def test_torch_stays_out_of_the_kernels() -> None:
    paths = [*sources("core", "cpu", "cuda"), CSRC / "kernels.h"]
    assert offences(paths, TORCH) == []
    found = [f"{name(p)}: {written}" for p in paths for written, _ in includes(p)]
    assert [line for line in found if TORCH.search(line)] == []


ROOMS = {
    "core": {"core"},
    "cpu": {"core", "cpu", "kernels.h"},
    "cuda": {"core", "cuda", "kernels.h"},
    "kernels.h": {"core"},
    "ops": {"core", "kernels.h", "ops"},
    "bindings.cpp": {"kernels.h", "ops"},
}


def test_dependencies_point_one_way() -> None:
    wrong = [
        f"{name(path)}: {written}"
        for path in sources()
        for written, ours in includes(path)
        if ours is not None and name(ours).split("/")[0] not in ROOMS[name(path).split("/")[0]]
    ]
    assert wrong == []


def test_own_headers_are_found() -> None:
    missing = [
        f"{name(path)}: {written}"
        for path in sources("core", "cpu", "cuda")
        for written, ours in includes(path)
        if written[0] == '"' and ours is None
    ]
    assert missing == []


def test_core_includes_only_plain_headers() -> None:
    wrong = [
        f"{name(path)}: {written}"
        for path in sources("core")
        for written, ours in includes(path)
        if ours is None and written not in PLAIN_HEADERS
    ]
    assert wrong == []


def test_no_libm_and_no_fast_intrinsics() -> None:
    assert offences(sources("core", "cpu", "cuda"), LIBM) == []


@pytest.mark.parametrize(
    "line",
    [
        "y = std::log(x);",
        "y = logf(x);",
        "y = 2.0f * sinf (x);",
        "y = __expf(x);",
        "sincospif(x, &s, &c);",
        "y = __builtin_expf(x);",
        "y = normcdfinvf(x);",
        "y = __fmaf_rz(a, b, c);",
        "y = __fdividef(a, b);",
        "y = rsqrtf(x);",
        "y = erfinv(x);",
    ],
)
def test_libm_would_be_noticed(line: str) -> None:
    assert LIBM.search(line)


@pytest.mark.parametrize(
    "line",
    [
        "y = fma(a, b, c);",
        "y = sqrt(x);",
        "return __builtin_fmaf(a, b, c);",
        "return __builtin_sqrtf(x);",
        "y = minus_two_log(x);",
        "sincos_turn(x, sine, cosine);",
        "y = _mm512_fmadd_ps(a, b, c);",
        "y = __fsqrt_rn(x);",
    ],
)
def test_own_functions_are_not_taken_for_libm(line: str) -> None:
    assert not LIBM.search(line)


def test_one_file_knows_the_compilers() -> None:
    pattern = re.compile(r"__CUDACC__|__CUDA_ARCH__|__NVCC__")
    assert {line.split(":")[0] for line in offences(sources(), pattern)} <= {"core/macros.h"}


def test_one_file_knows_pybind() -> None:
    knowing = {name(p) for p in sources() if re.search("pybind|PYBIND11|py::", code(p))}
    knowing |= {name(p) for p in sources() for written, _ in includes(p) if "pybind" in written}
    assert knowing == {"bindings.cpp"}


def test_one_room_validates() -> None:
    pattern = re.compile(r"TORCH_CHECK\w*\s*\((?:[^;]*?)\bself\b")
    assert {line.split("/")[0] for line in offences(sources(), pattern)} == {"ops"}


def test_cuda_launches_are_in_cuda() -> None:
    outside = [p for p in sources() if not name(p).startswith("cuda/")]
    assert offences(outside, re.compile(r"__global__|<<<")) == []


def test_every_file_says_what_it_is() -> None:
    for path in sources():
        assert path.read_text().startswith("//"), name(path)
    for path in (ROOT / "fastinit").rglob("*.py"):
        assert re.match(r'(# .*\n)*"""', path.read_text()), path.name


# The Python side.

# From the bottom up: nothing imports from a room behind its own.
PYTHON_ROOMS = [
    "_fill", "init", "_intercept", "initializers", "recipes", "models", "checkpoint", "diagnostics",
    "__init__",
    "__main__",
]  # fmt: skip
MOST_FILES = 12  # in a folder, its __init__ not counted


def imports(path: Path, package: str) -> set[str]:
    """The files of the package that a file imports, wherever in it, as dotted names."""
    modules = {
        ".".join(p.relative_to(ROOT).with_suffix("").parts) for p in (ROOT / package).rglob("*.py")
    }
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
            found.add(node.module or "")
    return {name for name in modules if name in found}


def graph(package: str) -> dict[str, set[str]]:
    return {
        ".".join(p.relative_to(ROOT).with_suffix("").parts): imports(p, package)
        for p in sorted((ROOT / package).rglob("*.py"))
    }


def circle(edges: dict[str, set[str]]) -> list[str]:
    """Files left when those that import nothing left are taken away again and again."""
    left = dict(edges)
    while free := [name for name, others in left.items() if not others & left.keys()]:
        for name in free:
            del left[name]
    return sorted(left)


@pytest.mark.parametrize("package", ["fastinit", "benchmarks"])
def test_no_two_files_import_each_other(package: str) -> None:
    edges = graph(package)
    assert sum(map(len, edges.values())) > 10
    assert circle(edges) == []


def test_a_circle_would_be_noticed() -> None:
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": set()}) == ["a", "b", "c"]


def room(module: str) -> int:
    return PYTHON_ROOMS.index([*module.split("."), "__init__"][1])


def test_no_file_imports_upward() -> None:
    # Import nothing of ours, and are imported by tests alone.
    apart = {"fastinit._reference", "fastinit._reference_orthogonal"}
    edges = graph("fastinit")
    assert all(not edges[module] for module in apart)
    wrong = [
        f"{module} imports {other}"
        for module, others in edges.items()
        if module not in apart
        for other in others
        if room(other) > room(module)
    ]
    assert wrong == []


def test_folders_stay_small() -> None:
    files = [p for p in (ROOT / "fastinit").rglob("*.py") if p.name != "__init__.py"]
    folders = [p.parent for p in files]
    assert {f.name: folders.count(f) for f in folders if folders.count(f) > MOST_FILES} == {}


NN_INIT = [
    "calculate_gain", "uniform_", "normal_", "trunc_normal_", "constant_", "ones_", "zeros_",
    "eye_", "dirac_", "xavier_uniform_", "xavier_normal_", "kaiming_uniform_", "kaiming_normal_",
    "orthogonal_", "sparse_", "uniform", "normal", "constant", "eye", "dirac", "xavier_uniform",
    "xavier_normal", "kaiming_uniform", "kaiming_normal", "orthogonal", "sparse",
]  # fmt: skip
MORE_INITIALIZERS = ["delta_orthogonal_", "lecun_normal_", "lecun_uniform_", "variance_scaling_"]
MODULES = ["diagnostics", "init", "initializers", "recipes"]
KEYS_AND_REGIONS = ["Key", "Region"]
CODE_ONE_DOES_NOT_OWN = ["deferred", "keyed", "patch", "unpatch"]
GAINS_AND_SCALES = ["calibrate_", "gain", "lsuv_"]
WHOLE_MODELS = ["fingerprint", "init_", "materialize_", "regenerate", "verify"]
ABOUT_THE_BUILD = ["STREAM_VERSION", "__version__", "build_info"]


def test_public_names() -> None:
    functions = [*NN_INIT, *MORE_INITIALIZERS, *CODE_ONE_DOES_NOT_OWN, *GAINS_AND_SCALES]
    functions += WHOLE_MODELS
    expected = [*functions, *KEYS_AND_REGIONS, *ABOUT_THE_BUILD, *MODULES]
    assert sorted(fastinit.__all__) == sorted(expected)
    assert sorted(fastinit.init.__all__) == sorted(NN_INIT + MORE_INITIALIZERS)
    assert all(hasattr(fastinit, word) for word in fastinit.__all__)


def test_stock_has_no_other_names() -> None:
    from torch.nn import init

    stock = {
        word
        for word, member in vars(init).items()
        if callable(member) and not word.startswith("_") and member.__module__ == init.__name__
    }
    assert {word for word in stock if isinstance(vars(init)[word], FunctionType)} <= set(NN_INIT)


def public_callables() -> dict[str, Callable[..., object]]:
    return {
        word: getattr(fastinit, word)
        for word in fastinit.__all__
        if callable(getattr(fastinit, word))
    }


def test_public_docstrings() -> None:
    """Args, Returns and Raises, or the name of the sibling whose sections hold; an example."""
    members = public_callables()
    lacking = []
    for word, member in members.items():
        text = inspect.getdoc(member) or ""
        parameters = inspect.signature(member).parameters
        if "eprecated" in text.split("\n")[0] or not parameters:
            continue  # an alias, whose replacement says it all
        siblings = [inspect.getdoc(members.get(s)) or "" for s in re.findall(r"`(\w+)`", text)]
        wanted = {"Example:"} | ({"Args:"} if len(parameters) > 1 else set())
        wanted |= {"Raises:"} if "key" in parameters else set()
        wanted |= {"eturn"} if inspect.isfunction(member) else set()
        lacking += [
            f"{word}: {part}"
            for part in sorted(wanted)
            if part not in text and not any(part in sibling for sibling in siblings)
        ]
    assert lacking == []


def test_the_facade_holds_no_logic() -> None:
    tree = ast.parse((ROOT / "fastinit" / "__init__.py").read_text())
    plain = (ast.Import, ast.ImportFrom, ast.Assign, ast.AnnAssign, ast.AugAssign, ast.Expr)
    other = [statement for statement in tree.body if not isinstance(statement, plain)]
    names = [getattr(statement, "name", None) for statement in other]
    assert names == ["build_info", "__getattr__"]


@pytest.mark.parametrize("oracle", ["_reference.py", "_reference_orthogonal.py"])
def test_the_oracle_imports_nothing_compiled(oracle: str) -> None:
    text = (ROOT / "fastinit" / oracle).read_text()
    imports = re.findall(r"^\s*(?:import|from)\s+(\S+)", text, re.MULTILINE)
    assert imports and not [m for m in imports if re.match(r"torch|fastinit|\.", m)]


def test_one_file_imports_the_extension() -> None:
    # Relative names, strings for importlib and `from fastinit import _C` all count.
    importing = {
        path.name
        for path in (ROOT / "fastinit").rglob("*.py")
        if re.search(
            r'["\']fastinit\._C["\']\)|\bimport\s+_C\b|fastinit\._C import', path.read_text()
        )
    }
    assert importing == {"extension.py"}


# The documents.


@pytest.mark.parametrize("document", ["README.md", "docs/start.md", "docs/tour.md"])
def test_examples_of_documents_run(document: str) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / document).read_text(), re.M | re.S)
    assert len(blocks) >= 3
    names: dict[str, object] = {}
    for block in blocks:  # later ones use the names of earlier ones
        exec(block, names)


DOCUMENTS = ["README.md", "CONTRIBUTING.md", *(f"docs/{p.name}" for p in ROOT.glob("docs/*.md"))]


@pytest.mark.parametrize("document", sorted(DOCUMENTS))
def test_documents_name_files_that_exist(document: str) -> None:
    text = (ROOT / document).read_text()
    beside = (ROOT / document).parent
    links = [beside / path for path in re.findall(r"\]\(([^)#:]+)(?:#[\w-]+)?\)", text)]
    paths = re.findall(r"\b(?:csrc|tests|fastinit|benchmarks|docs|examples)/[\w./]*\.\w+\b", text)
    assert [path for path in [*links, *(ROOT / path for path in paths)] if not path.exists()] == []
