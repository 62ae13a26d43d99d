"""The build's decisions, made on fake toolkits, and the refusal of an extension that does not fit.

setup.py is imported here, which builds nothing.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

import fastinit
from fastinit._fill import extension

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ["csrc/cuda/fill.cu"]
GPUS_OF_12_4 = (50, 52, 60, 61, 70, 72, 75, 80, 86, 87, 89, 90)
GPUS_OF_13_0 = (75, 80, 86, 87, 88, 89, 90, 100, 110, 103, 120, 121)

MakeToolkit = Callable[..., Path]


@pytest.fixture(scope="module")
def build() -> ModuleType:
    spec = importlib.util.spec_from_file_location("fastinit_setup", ROOT / "setup.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write_script(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def make_toolkit(tmp_path: Path) -> MakeToolkit:
    """Makes directories that look like a CUDA toolkit: nvcc answers what the real one answers."""

    def make(
        name: str = "cuda", version: str = "13.0", gpus: tuple[int, ...] = GPUS_OF_13_0
    ) -> Path:
        root = tmp_path / name
        known = "\\n".join(f"compute_{gpu}" for gpu in gpus)
        script = f"""case "$1" in
  --version) echo "nvcc: NVIDIA (R) Cuda compiler driver";
             echo "Cuda compilation tools, release {version}, V{version}.88" ;;
  --list-gpu-arch) printf '{known}\\n' ;;
  --dryrun) echo '#$ _HERE_={root}/bin' >&2; echo '#$ TOP={root}/bin/..' >&2 ;;
  *) exit 1 ;;
esac"""
        write_script(root / "bin" / "nvcc", script)
        return root

    return make


def on_path(*directories: Path) -> dict[str, str]:
    """An environment whose PATH holds these and what a shell script needs."""
    return {"PATH": os.pathsep.join([*map(str, directories), "/usr/bin", "/bin"])}


@pytest.fixture
def nowhere(tmp_path: Path) -> Path:
    """No toolkit in the default place either."""
    return tmp_path / "nowhere"


# Where the toolkit is.


def test_named_toolkit_wins(build: ModuleType, make_toolkit: MakeToolkit) -> None:
    named, other = make_toolkit("named"), make_toolkit("other")
    for variable in ("CUDA_HOME", "CUDA_PATH"):
        environ = {**on_path(other / "bin"), variable: str(named)}
        assert build.find_toolkit(environ) == named


def test_nvcc_on_the_path(build: ModuleType, make_toolkit: MakeToolkit) -> None:
    root = make_toolkit()
    assert build.find_toolkit(on_path(root / "bin")) == root


def test_nvcc_that_is_a_script(
    build: ModuleType, make_toolkit: MakeToolkit, tmp_path: Path
) -> None:
    root = make_toolkit()
    wrapper = write_script(tmp_path / "local" / "bin" / "nvcc", f'exec {root}/bin/nvcc "$@"')
    assert build.find_toolkit(on_path(wrapper.parent)) == root


def test_nvcc_that_is_a_link(build: ModuleType, make_toolkit: MakeToolkit, tmp_path: Path) -> None:
    root = make_toolkit()
    links = tmp_path / "links"
    links.mkdir()
    (links / "nvcc").symlink_to(root / "bin" / "nvcc")
    assert build.find_toolkit(on_path(links)) == root


def test_nvcc_that_does_not_name_its_root(build: ModuleType, tmp_path: Path) -> None:
    nvcc = write_script(tmp_path / "old" / "bin" / "nvcc", "exit 1")
    assert build.find_toolkit(on_path(nvcc.parent)) == tmp_path / "old"


@pytest.mark.skipif(os.path.exists("/usr/bin/nvcc"), reason="nvcc is among the system's commands")
def test_default_place(build: ModuleType, make_toolkit: MakeToolkit, nowhere: Path) -> None:
    root = make_toolkit()
    assert build.find_toolkit(on_path(), default=root) == root
    assert build.find_toolkit(on_path(), default=nowhere) is None


def test_named_directory_without_nvcc(build: ModuleType, make_toolkit: MakeToolkit) -> None:
    # What the user names is not silently replaced by something else.
    environ = {**on_path(make_toolkit() / "bin"), "CUDA_HOME": "/nonexistent"}
    assert build.find_toolkit(environ) is None


# Whether CUDA is built, and with what.


@pytest.mark.parametrize("wish", ["1", "auto", "", None])
def test_cuda_is_built_where_it_can_be(
    build: ModuleType, make_toolkit: MakeToolkit, wish: str | None
) -> None:
    root = make_toolkit()
    environ = on_path(root / "bin") | ({} if wish is None else {"FASTINIT_CUDA": wish})
    toolkit = build.choose_toolkit(environ, "2.14.1", "13.0", SOURCES)
    assert toolkit == (root, "13.0", "7.5;8.0;8.6;8.9;9.0;10.0;12.0+PTX")


def test_minor_releases_need_not_match(build: ModuleType, make_toolkit: MakeToolkit) -> None:
    environ = on_path(make_toolkit(version="13.2") / "bin")
    assert build.choose_toolkit(environ, "2.14.1", "13.0", SOURCES).version == "13.2"


def test_cuda_left_out_on_demand(build: ModuleType, make_toolkit: MakeToolkit) -> None:
    environ = {**on_path(make_toolkit() / "bin"), "FASTINIT_CUDA": "0"}
    assert build.choose_toolkit(environ, "2.14.1", "13.0", SOURCES) is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cuda_sources": []}, r"no CUDA sources \(csrc/cuda/\*\.cu\)"),
        ({"torch_cuda": None}, "torch 2.13.0 is built without CUDA; install"),
        ({"environ": {"CUDA_HOME": "/nonexistent"}}, "CUDA_HOME=/nonexistent has no bin/nvcc"),
        ({"torch_cuda": "12.8"}, "is CUDA 13.0, but torch 2.13.0 needs CUDA 12.x; set CUDA_HOME"),
    ],
    ids=["sources", "torch", "toolkit", "release"],
)
def test_what_is_missing_is_named(
    build: ModuleType,
    make_toolkit: MakeToolkit,
    nowhere: Path,
    capsys: pytest.CaptureFixture[str],
    changes: dict[str, object],
    message: str,
) -> None:
    arguments: dict[str, object] = {
        "environ": {},
        "torch_version": "2.13.0",
        "torch_cuda": "13.0",
        "cuda_sources": SOURCES,
        "default": nowhere,
    } | changes
    environ = on_path(make_toolkit() / "bin") | arguments.pop("environ")  # type: ignore[operator]
    assert build.choose_toolkit(environ, **arguments) is None
    assert "building without CUDA" in capsys.readouterr().err
    with pytest.raises(SystemExit, match=f"^FASTINIT_CUDA=1, but .*{message}"):
        build.choose_toolkit({**environ, "FASTINIT_CUDA": "1"}, **arguments)


def test_everything_missing_is_named_at_once(build: ModuleType, nowhere: Path) -> None:
    environ = {"PATH": "", "FASTINIT_CUDA": "1"}
    with pytest.raises(SystemExit) as refusal:
        build.choose_toolkit(environ, "2.13.0", None, [], nowhere)
    for part in ("csrc/cuda", "without CUDA", "nvcc is not on PATH"):
        assert part in str(refusal.value)


def test_other_wishes_are_refused(build: ModuleType) -> None:
    with pytest.raises(SystemExit, match="FASTINIT_CUDA must be 0, 1 or auto, got 'yes'"):
        build.choose_toolkit({"FASTINIT_CUDA": "yes"}, "2.14.1", "13.0", SOURCES)


def test_a_gpu_plays_no_part(build: ModuleType) -> None:
    text = (ROOT / "setup.py").read_text()
    for word in ("is_available", "device_count", "nvidia-smi", "get_device"):
        assert word not in text


# GPU architectures, and what the C++ code is told.


def test_architectures_the_toolkit_knows(build: ModuleType, make_toolkit: MakeToolkit) -> None:
    root = make_toolkit(gpus=GPUS_OF_12_4)
    assert build.choose_architectures(root, {}) == "7.5;8.0;8.6;8.9;9.0+PTX"
    assert build.choose_architectures(root, {"TORCH_CUDA_ARCH_LIST": ""}).endswith("9.0+PTX")


def test_architectures_the_user_names(build: ModuleType, make_toolkit: MakeToolkit) -> None:
    chosen = build.choose_architectures(make_toolkit(), {"TORCH_CUDA_ARCH_LIST": "8.0 9.0a+PTX"})
    assert chosen == "8.0 9.0a+PTX"


def test_torch_takes_our_architectures(
    build: ModuleType, make_toolkit: MakeToolkit, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch.utils import cpp_extension

    ours = build.choose_architectures(make_toolkit(), {})
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", ours)
    flags = " ".join(cpp_extension._get_cuda_arch_flags([]))
    for number in build.ARCHITECTURES:
        assert f"code=sm_{number}" in flags
    assert flags.count("code=compute_") == 1


def test_macros(build: ModuleType) -> None:
    assert build.build_macros(None) == []
    for architectures in ("8.0;9.0a;12.0+PTX", " 8.0 9.0a 12.0+PTX; "):
        assert build.build_macros(build.Toolkit(Path("/cuda"), "13.0", architectures)) == [
            "-DFASTINIT_WITH_CUDA",
            '-DFASTINIT_CUDA_TOOLKIT="13.0"',
            '-DFASTINIT_CUDA_ARCHITECTURES="80;90a;120+PTX"',
        ]


def test_flavours_share_no_directory(build: ModuleType) -> None:
    toolkit = build.Toolkit(Path("/cuda"), "13.0", "8.0")
    cpu = "2.13.0+cpu"
    flavours = [(cpu, None), (cpu, None, True), ("2.14.1", None), ("2.14.1", toolkit)]
    assert len({build.build_directory(*flavour) for flavour in flavours}) == len(flavours)


# What is built.


def test_extension(build: ModuleType) -> None:
    extension = build.make_extension(None)
    assert extension.name == "fastinit._C"
    assert "csrc/bindings.cpp" in extension.sources
    assert not [path for path in extension.sources if path.endswith(".cu")]
    assert "csrc/core/philox.h" in extension.depends  # so that a source distribution has it
    flags = extension.extra_compile_args["cxx"]
    assert "-ffp-contract=off" in flags
    assert not [flag for flag in flags if "fast-math" in flag or flag.startswith("-march")]
    assert not [flag for flag in flags + extension.extra_link_args if "sanitize" in flag]
    assert "--fmad=false" in build.NVCC_FLAGS
    assert not [flag for flag in build.NVCC_FLAGS if "fast" in flag or "ftz" in flag]


def test_versions_agree() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    assert f'\nversion = "{fastinit.__version__}"\n' in text
    info = fastinit.build_info()
    assert info["version"] == fastinit.__version__
    assert info["stream_version"] == fastinit.STREAM_VERSION


# An extension that does not fit is refused, with the command that helps.

REMEDY = "pip install --no-build-isolation"


def import_after(preparation: str) -> str:
    """The last line on stderr of a process that imports fastinit after some preparation."""
    run = subprocess.run(
        [sys.executable, "-c", f"{preparation}\nimport fastinit"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode != 0, "fastinit was imported"
    return run.stderr.strip().splitlines()[-1]


def test_extension_for_another_torch() -> None:
    message = import_after("import torch; torch.__version__ = '2.999.0'")
    assert message.startswith("ImportError: fastinit was built for torch 2.")
    assert "torch 2.999.0 is installed" in message
    assert REMEDY in message


FINDER = """
import sys
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "fastinit._C":
            raise {error}
sys.meta_path.insert(0, Finder())
"""


def test_extension_that_does_not_load() -> None:
    message = import_after(FINDER.format(error="ImportError('undefined symbol: _ZN3c10')"))
    assert message.startswith("ImportError: ")
    assert "undefined symbol: _ZN3c10" in message
    assert REMEDY in message


def test_extension_that_is_not_there() -> None:
    error = "ModuleNotFoundError('no', name='fastinit._C')"
    message = import_after(FINDER.format(error=error))
    assert message.startswith("ImportError: ")
    assert "not there" in message
    assert REMEDY in message


@pytest.mark.parametrize("installed", ["2.14.0", "2.14.1+cu130", "2.14.2.dev20270101"])
def test_patch_releases_of_torch_fit(installed: str) -> None:
    extension._check_version("2.14.1", installed)


@pytest.mark.parametrize("installed", ["2.13.0+cpu", "2.15.0", "3.14.1"])
def test_other_releases_of_torch_do_not(installed: str) -> None:
    with pytest.raises(ImportError, match=REMEDY):
        extension._check_version("2.14.1", installed)
