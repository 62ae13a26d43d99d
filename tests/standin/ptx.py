"""PTX to C++: what nvcc made of the kernels, as functions that a CPU can run.

Each instruction becomes the expression that the PTX ISA defines it by, on registers that are
unsigned integers, so that one that rounds otherwise, fuses, approximates or flushes subnormals
would show. Whatever else an instruction could be is refused by name.
"""

from __future__ import annotations

import re
from collections.abc import Callable

SIZES = {"8": 1, "16": 2, "32": 4, "64": 8}
COMPARE = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}
ARITHMETIC = {"add": "+", "sub": "-", "mul": "*", "div": "/", "rem": "%"}
LOGIC = {"and": "&", "or": "|", "xor": "^"}
SHARED_BASE = "reinterpret_cast<uint64_t>(thread.shared)"
SPECIAL = {
    "%tid.x": "thread.tid",
    "%ctaid.x": "thread.block",
    "%ntid.x": "thread.threads",
    "%nctaid.x": "thread.blocks",
}


class Unknown(ValueError):
    """An instruction that this translation does not know."""


def bits(kind: str) -> str:
    """The unsigned integer that holds a value of PTX type `kind`."""
    return "bool" if kind == "pred" else f"uint{kind[1:]}_t"


def value(kind: str) -> str:
    """The C++ type that computes on PTX type `kind`."""
    if kind in ("f32", "f64"):
        return {"f32": "float", "f64": "double"}[kind]
    return ("int" if kind[0] == "s" else "uint") + kind[1:] + "_t"


def operand(text: str) -> str:
    if text in SPECIAL:
        return SPECIAL[text]
    if match := re.fullmatch(r"0[fF]([0-9A-Fa-f]{8})", text):
        return f"0x{match[1]}u"
    if match := re.fullmatch(r"0[dD]([0-9A-Fa-f]{16})", text):
        return f"0x{match[1]}ull"
    if re.fullmatch(r"-?\d+", text):
        number = int(text)
        return (
            "INT64_MIN" if number == -(2**63) else f"{number}{'ull' if number >= 2**63 else 'll'}"
        )
    if match := re.fullmatch(r"%(\w+)", text):
        return match[1]
    if re.fullmatch(r"[$\w]+", text):
        return f"reinterpret_cast<uint64_t>({symbol(text)})"
    raise Unknown(text)


def symbol(name: str) -> str:
    return re.sub(r"\W", "_", name)


def read(text: str, kind: str) -> str:
    """The operand as a value of `kind`."""
    if kind == "pred":
        return f"static_cast<bool>({operand(text)})"
    return f"as<{value(kind)}>(static_cast<{bits(kind)}>({operand(text)}))"


def address(text: str, space: list[str]) -> str:
    match = re.fullmatch(r"\[([%$\w]+)(?:\+(-?\d+))?\]", text)
    if match is None:
        raise Unknown(text)
    # An address in a register of 32 bits counts from where shared memory begins.
    base = f"{SHARED_BASE} + " if space == ["shared"] and match[1].startswith("%r") else ""
    if base and match[1].startswith("%rd"):
        raise Unknown(text)
    return f"{base}{operand(match[1])} + {match[2] or 0}"


def assign(target: str, kind: str, expression: str) -> str:
    if kind == "pred":
        return f"{operand(target)} = {expression};"
    return f"{operand(target)} = to_bits<{value(kind)}>({expression});"


def convert(target: str, parts: list[str], source: str) -> str:
    *rounding, to, origin = parts
    given, wide = read(source, origin), to[0] == "f" and origin[0] == "f"
    widening = wide and (to, origin) == ("f64", "f32")
    expected = {
        ("f", "f"): [] if widening else ["rn"],
        ("f", "s"): ["rn"],
        ("f", "u"): ["rn"],
    }.get((to[0], origin[0]), ["rzi"] if origin[0] == "f" else [])
    if rounding != expected:
        raise Unknown(f"cvt.{'.'.join(parts)}")
    if origin[0] == "f" and to[0] != "f":
        given = f"saturated<{value(to)}>({given})"
    return assign(target, to, f"static_cast<{value(to)}>({given})")


def compute(name: str, parts: list[str], args: list[str]) -> str:
    """The statement for an instruction other than a branch or a barrier."""
    kind = parts[-1]
    modifiers = parts[:-1]
    floating = kind in ("f32", "f64")
    target = args[0]
    if name in ("ld", "st"):
        return memory(name, modifiers, kind, args)
    if (name, modifiers, kind) == ("atom", ["global", "max"], "s32"):
        place = address(args[1], ["global"])
        return assign(target, kind, f"raised({place}, {read(args[2], kind)})")
    reads = [] if "{" in "".join(args) or name == "cvt" else [read(arg, kind) for arg in args[1:]]
    match name, modifiers:
        case "mov", []:
            if target[0] == "{":  # unpack
                low, high = target.strip("{} ").split(",")
                half = SIZES[kind[1:]] * 4
                whole = read(args[1], kind)
                return "".join(
                    f"{operand(part.strip())} = static_cast<uint{half}_t>({whole} >> {shift});"
                    for part, shift in ((low, 0), (high, half))
                )
            if args[1][0] == "{":  # pack
                low, high = (operand(part.strip()) for part in args[1].strip("{} ").split(","))
                half = SIZES[kind[1:]] * 4
                return (
                    f"{operand(target)} = static_cast<uint{half}_t>({low}) | "
                    f"static_cast<{bits(kind)}>({high}) << {half};"
                )
            given = operand(args[1])
            if kind == "u32" and given.startswith("reinterpret_cast"):  # of shared memory
                given = f"{given} - {SHARED_BASE}"
            return f"{operand(target)} = static_cast<{bits(kind)}>({given});"
        case ("cvta", ["to", "global"] | ["param"]):
            return f"{operand(target)} = {operand(args[1])};"
        case (("add" | "sub" | "mul" | "div"), ["rn"]) if floating:
            return assign(target, kind, f"{reads[0]} {ARITHMETIC[name]} {reads[1]}")
        case (("add" | "sub"), []) | ("mul", ["lo"]) if not floating:
            unsigned = [f"static_cast<{bits(kind)}>({text})" for text in reads]
            return assign(target, "u" + kind[1:], f"{unsigned[0]} {ARITHMETIC[name]} {unsigned[1]}")
        case (("div" | "rem"), []) if not floating:
            return assign(target, kind, f"{reads[0]} {ARITHMETIC[name]} {reads[1]}")
        case ("mul", ["wide"]):
            twice = kind[0] + str(int(kind[1:]) * 2)
            wide = [f"static_cast<{value(twice)}>({text})" for text in reads]
            return assign(target, twice, f"{wide[0]} * {wide[1]}")
        case ("mul", ["hi"]) if kind in ("s32", "u32"):
            twice = kind[0] + "64"
            wide = [f"static_cast<{value(twice)}>({text})" for text in reads]
            return assign(target, kind, f"static_cast<{value(kind)}>({wide[0]} * {wide[1]} >> 32)")
        case ("mad", ["lo"]) if not floating:
            unsigned = [f"static_cast<{bits(kind)}>({text})" for text in reads]
            return assign(target, "u" + kind[1:], f"{unsigned[0]} * {unsigned[1]} + {unsigned[2]}")
        case ("fma", ["rn"]):
            return assign(target, kind, f"fused({', '.join(reads)})")
        case ("sqrt", ["rn"]):
            return assign(target, kind, f"std::sqrt({reads[0]})")
        case ("rcp", ["rn"]):
            return assign(target, kind, f"{value(kind)}{{1}} / {reads[0]}")
        case ("neg", []) | ("neg", ["s32" | "s64"]):
            if floating:  # also of zeros and NaNs
                sign = 1 << (int(kind[1:]) - 1)
                return f"{operand(target)} = {operand(args[1])} ^ {sign}ull;"
            return assign(target, "u" + kind[1:], f"0 - {read(args[1], 'u' + kind[1:])}")
        case (("min" | "max"), []) if not floating:
            return assign(target, kind, f"std::{name}({reads[0]}, {reads[1]})")
        case (("and" | "or" | "xor"), []):
            return f"{operand(target)} = {reads[0]} {LOGIC[name]} {reads[1]};"
        case ("not", []):
            return f"{operand(target)} = {'!' if kind == 'pred' else '~'}{reads[0]};"
        case (("shl" | "shr"), []):
            amount = read(args[2], "u32")
            return assign(target, kind, f"{name}_by<{value(kind)}>({reads[0]}, {amount})")
        case ("bfi", []):
            return (
                f"{operand(target)} = insert<{bits(kind)}>({reads[0]}, {reads[1]}, "
                f"{read(args[3], 'u32')}, {read(args[4], 'u32')});"
            )
        case ("prmt", []):
            return f"{operand(target)} = permute({', '.join(reads)});"
        case ("selp", []):
            return f"{operand(target)} = {operand(args[3])} ? {reads_bits(args[1:3], kind)};"
        case ("setp", [relation]) if relation in COMPARE:
            # Of floats: ordered, but for ne, which PTX has ordered too.
            ordered = "" if relation != "ne" or not floating else f"&& both({', '.join(reads)})"
            return f"{operand(target)} = {reads[0]} {COMPARE[relation]} {reads[1]} {ordered};"
        case ("setp", [relation]) if floating and relation[:-1] in COMPARE and relation[-1] == "u":
            return (
                f"{operand(target)} = {reads[0]} {COMPARE[relation[:-1]]} {reads[1]} || "
                f"!both({', '.join(reads)});"
            )
        case ("cvt", _):
            return convert(target, parts, args[1])
    raise Unknown(".".join([name, *parts]))


def reads_bits(args: list[str], kind: str) -> str:
    return " : ".join(f"static_cast<{bits(kind)}>({operand(arg)})" for arg in args)


def memory(name: str, modifiers: list[str], kind: str, args: list[str]) -> str:
    place, data = (args[1], args[0]) if name == "ld" else (args[0], args[1])
    spaces = [part for part in modifiers if part not in ("v2", "v4")]
    if spaces not in ([], ["global"], ["shared"], ["param"]):
        raise Unknown(".".join([name, *modifiers, kind]))
    registers = [part.strip() for part in data.strip("{} ").split(",")]
    if "v2" in modifiers or "v4" in modifiers:
        count = 2 if "v2" in modifiers else 4
        assert len(registers) == count
    whole = len(registers) * SIZES[kind[1:]]
    start = address(place, spaces)
    lines = [f"check_alignment({start}, {whole});"]
    for i, register in enumerate(registers):
        where = f"{start} + {i * SIZES[kind[1:]]}"
        if name == "ld":
            loaded = value(kind) if kind[0] == "s" else bits(kind)
            lines.append(f"{operand(register)} = load<{loaded}>({where});")
        else:
            lines.append(f"store<{bits(kind)}>({where}, {operand(register)});")
    return " ".join(lines)


def statement(line: str) -> str:
    """One instruction, without its semicolon, as C++."""
    guard = ""
    if match := re.match(r"@(!?)%(\w+)\s+", line):
        guard, line = f"if ({match[1]}{match[2]}) ", line[match.end() :]
    mnemonic, _, rest = line.partition(" ") if " " in line else (line, "", "")
    name, *parts = mnemonic.split(".")
    args = [part.strip() for part in re.findall(r"\{[^}]*\}|[^,{}]+", rest) if part.strip()]
    if name == "bra":
        return f"{guard}goto {symbol(args[0])};"
    if name == "ret":
        return f"{guard}return;"
    if (name, parts, args) == ("bar", ["sync"], ["0"]):
        return f"{guard}thread.wait();"
    return f"{guard}{{ {compute(name, parts, args)} }}"


ENTRY = re.compile(r"\.entry (\w+)\((.*?)\)\n(.*?)^\{\n(.*?)^\}", re.DOTALL | re.MULTILINE)
PARAMETER = re.compile(r"\.param (?:\.align (\d+) )?\.\w(\d+) (\w+)(?:\[(\d+)\])?")
SHARED = re.compile(r"\.shared \.align (\d+) \.\w(\d+) ([$\w]+)(?:\[(\d+)\])?;")
REGISTERS = re.compile(r"\.reg \.(\w+)\s+%(\w+)<(\d+)>;")


def kernel(name: str, parameters: str, body: str) -> tuple[str, str]:
    """The function, and its line in the table of kernels."""
    lines, sizes, offsets, at = [], [], [], 0
    for align, width, parameter, count in PARAMETER.findall(parameters):
        size = SIZES[width] * int(count or 1)
        step = int(align or SIZES[width])
        at = (at + step - 1) // step * step
        lines.append(f"char* const {parameter} = thread.parameters + {at};")
        sizes.append(size)
        offsets.append(at)
        at += size
    shared = 0
    for align, width, variable, count in SHARED.findall(body):
        shared = (shared + int(align) - 1) // int(align) * int(align)
        lines.append(f"char* const {symbol(variable)} = thread.shared + {shared};")
        shared += SIZES[width] * int(count or 1)
    for kind, prefix, count in REGISTERS.findall(body):
        names = ", ".join(f"{prefix}{i}" for i in range(1, int(count)))
        if names:
            lines.append(f"{bits(kind)} {names};")
    for line in body.splitlines():
        text = re.sub(r"\s+", " ", line.partition("//")[0].strip())
        if not text or text.startswith((".reg", ".shared", ".pragma")):
            continue
        if match := re.fullmatch(r"([$\w]+):", text):
            lines.append(f"{symbol(match[1])}:;")
        elif text.endswith(";"):
            lines.append(statement(text[:-1]))
        else:
            raise Unknown(text)
    joined = "\n  ".join(lines)
    braced = [", ".join(map(str, numbers)) for numbers in (sizes, offsets)]
    entry = f'{{"{name}", {name}, {shared}, {{{braced[0]}}}, {{{braced[1]}}}}},'
    return f"void {name}(Thread& thread) {{\n  {joined}\n}}\n", entry


def translate(ptx: str, parts: int, wanted: Callable[[str], bool]) -> list[str]:
    """C++ sources, at most `parts`, that together define the kernels whose name is wanted."""
    found = [
        kernel(name, parameters, body)
        for name, parameters, _, body in ENTRY.findall(ptx)
        if wanted(name)
    ]
    found.sort(key=lambda pair: len(pair[0]), reverse=True)
    sources = []
    for mine in (found[i::parts] for i in range(min(parts, len(found)))):
        functions = "\n".join(function for function, _ in mine)
        table = "\n    ".join(entry for _, entry in mine)
        sources.append(
            f'#include "thread.h"\n\nnamespace {{\n\n{functions}\n'
            f"const Registered registered({{\n    {table}\n}});\n\n}}  // namespace\n"
        )
    return sources
