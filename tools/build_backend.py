"""What pip and other front ends call to build fastinit (PEP 517): setuptools behind one question.

Owns the question whether all that a build needs is there, and the refusal that names what is not,
within seconds and without a download. The extension fits only the torch it is built with, so no
build requirement is named: an isolated build would fetch a torch of its own, gigabytes that
`import fastinit` then refuses. Must not know what is built; setup.py does.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

# What a build imports, as pip names it, with the oldest release that serves.
PACKAGES = {"torch": (2, 11), "setuptools": (77,), "ninja": (0,)}
COMMAND = "pip install --no-build-isolation ."
SNIPPET = "#include <concepts>\n#include <Python.h>\ntemplate <std::integral T> T f(T x);\n"
Settings = dict[str, Any] | None


def missing_packages() -> list[str]:
    """What pip would have to install for a build by this Python."""
    wanted = []
    for name, oldest in PACKAGES.items():
        try:
            found = tuple(int(part) for part in re.findall(r"\d+", version(name))[: len(oldest)])
        except PackageNotFoundError:
            found = None
        if name == "ninja" and found is None and _runs_ninja():
            continue
        if found is None or found < oldest:
            number = ".".join(map(str, oldest))
            wanted.append(name if number == "0" else f"{name}>={number}")
    return wanted


def missing_compiler() -> list[str]:
    """What of the compiler and Python's headers is missing; empty if a line of C++20 compiles."""
    compiler = shlex.split(os.environ.get("CXX") or "c++")
    if shutil.which(compiler[0]) is None:
        return [f"a C++20 compiler: no {compiler[0]} on PATH (GCC 12 serves; CXX names another)"]
    headers = sysconfig.get_path("include")
    if not (Path(headers) / "Python.h").is_file():
        return [f"the headers of this Python: no Python.h in {headers} (package python3-dev)"]
    command = [*compiler, "-std=c++20", "-fsyntax-only", f"-I{headers}", "-x", "c++", "-"]
    run = subprocess.run(command, input=SNIPPET, capture_output=True, text=True, check=False)
    if run.returncode == 0:
        return []
    return [f"a C++20 compiler: {shlex.join(compiler)} says {run.stderr.strip()[:300]}"]


def _runs_ninja() -> bool:
    """Whether torch will find the command without the package; a shim may be there and fail."""
    command = shutil.which("ninja")
    return (
        command is not None
        and subprocess.run([command, "--version"], capture_output=True, check=False).returncode == 0
    )


def _outside() -> list[str] | None:
    """What the Python that pip runs in lacks, or None if this is no isolated build.

    pip isolates a build by variables of the environment alone, which -E has the same Python ignore.
    """
    command = [sys.executable, "-E", __file__]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    lacking = json.loads(run.stdout) if run.returncode == 0 else None
    return None if lacking == missing_packages() else lacking


def refusal(lacking: Sequence[str], tools: Sequence[str], isolated: bool) -> str:
    """Name what is missing, and the command that works."""
    lines = ["", "fastinit is compiled for the torch that it will run with."]
    if isolated:
        lines.append("pip builds in isolation, where the installed torch is out of its sight.")
    lines += [f"Missing: {what}" for what in [*lacking, *tools]]
    lines.append("Nothing was downloaded. " + ("Get these; then run:" if tools else "This works:"))
    install = (
        f"pip install {' '.join(shlex.quote(name) for name in lacking)} && " if lacking else ""
    )
    lines += ["", f"    {install}{COMMAND}", ""]
    lines += ["(a wheel alone: python -m build --wheel --no-isolation)", ""]
    return "\n".join(lines)


def require_everything() -> None:
    """Raise SystemExit, with the command that works, unless a build can succeed here."""
    lacking, tools = missing_packages(), missing_compiler()
    if not lacking and not tools:
        return
    outside = _outside() if lacking else None
    isolated = outside is not None
    raise SystemExit(refusal(outside if outside is not None else lacking, tools, isolated))


def _setuptools() -> Any:
    return importlib.import_module("setuptools.build_meta")


# The hooks of PEP 517 and PEP 660. A source distribution takes setuptools and nothing else.


def get_requires_for_build_sdist(config_settings: Settings = None) -> list[str]:
    """Setuptools."""
    return ["setuptools>=77"]


def build_sdist(sdist_directory: str, config_settings: Settings = None) -> str:
    """Pack the sources."""
    return str(_setuptools().build_sdist(sdist_directory, config_settings))


def get_requires_for_build_wheel(config_settings: Settings = None) -> list[str]:
    """Nothing that pip could fetch: what is needed is there, or the build stops."""
    require_everything()
    return []


def prepare_metadata_for_build_wheel(
    metadata_directory: str, config_settings: Settings = None
) -> str:
    """Write the metadata."""
    require_everything()
    return str(_setuptools().prepare_metadata_for_build_wheel(metadata_directory, config_settings))


def build_wheel(
    wheel_directory: str, config_settings: Settings = None, metadata_directory: str | None = None
) -> str:
    """Compile."""
    require_everything()
    build = _setuptools().build_wheel
    return str(build(wheel_directory, config_settings, metadata_directory))


def build_editable(
    wheel_directory: str, config_settings: Settings = None, metadata_directory: str | None = None
) -> str:
    """Compile in place."""
    require_everything()
    build = _setuptools().build_editable
    return str(build(wheel_directory, config_settings, metadata_directory))


get_requires_for_build_editable = get_requires_for_build_wheel
prepare_metadata_for_build_editable = prepare_metadata_for_build_wheel


if __name__ == "__main__":
    print(json.dumps(missing_packages()))
