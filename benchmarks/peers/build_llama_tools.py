"""Builds llama.cpp's own tools from the source that the installed engine was compiled from.

llama-cpp-python's sdist carries the whole llama.cpp tree. Taking it in the installed version, and building with the
options that ``make venv`` builds its wheel with (ggml's defaults: native instruction set, OpenMP, llamafile's kernels;
but no AMX, which crashes), gives llama-quantize, llama-imatrix, llama-perplexity and llama-bench that run the same
kernels as ``edgepress eval`` and ``edgepress bench`` do. (against_llama_quantize.py compares what both say of
themselves.)

    python benchmarks/peers/build_llama_tools.py FOLDER [--sdist FILE] [--jobs N]

Needs cmake, a C++17 compiler and, without ``--sdist``, a package index. FOLDER/bin holds the tools afterwards and
FOLDER/tools.json says what they are.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from edgepress.errors import EdgepressError, InputError
from edgepress.progress import say

PACKAGE = "llama-cpp-python"
TARGETS = ("llama-quantize", "llama-imatrix", "llama-perplexity", "llama-bench")
# Only what the four targets do not need is turned off; every ggml option keeps the default that the wheel has too.
OPTIONS = (
    "CMAKE_BUILD_TYPE=Release",
    "BUILD_SHARED_LIBS=OFF",
    "LLAMA_BUILD_COMMON=ON",
    "LLAMA_BUILD_TOOLS=ON",
    "LLAMA_BUILD_TESTS=OFF",
    "LLAMA_BUILD_EXAMPLES=OFF",
    "LLAMA_BUILD_SERVER=OFF",
    "LLAMA_BUILD_APP=OFF",
    "LLAMA_OPENSSL=OFF",
)
NO_AMX = ("-mno-amx-tile", "-mno-amx-int8", "-mno-amx-bf16")


def installed_version() -> str:
    """Version of the engine that edgepress runs GGUF files in."""
    try:
        return importlib.metadata.version(PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        raise InputError(f"{PACKAGE} is not installed; run: pip install 'edgepress[gguf]'") from None


def download_sdist(version: str, folder: Path) -> Path:
    """Fetch the source distribution with pip, which also builds its metadata in an environment of its own."""
    wanted = f"{PACKAGE}=={version}"
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", PACKAGE, "-d", str(folder), wanted]
    _run(command, f"{wanted} could not be downloaded; give its source archive with --sdist FILE")
    return next(folder.glob("llama_cpp_python-*.tar.gz"))


def unpack(archive: Path, folder: Path) -> Path:
    """Unpack an sdist below ``folder`` and return the llama.cpp tree in it.

    Raises:
        InputError: not a readable archive, an entry that would leave the folder, or no llama.cpp inside.
    """
    try:
        with tarfile.open(archive) as tar:
            # The filter refuses absolute paths, "..", devices, and links that point outside.
            tar.extractall(folder, filter="data")
    except (OSError, tarfile.TarError) as error:
        raise InputError(f"{archive}: cannot be unpacked ({error})") from error
    tree = folder / archive.name.removesuffix(".tar.gz") / "vendor" / "llama.cpp"
    if not (tree / "CMakeLists.txt").is_file():
        raise InputError(f"{archive}: no vendor/llama.cpp inside; wanted the sdist of {PACKAGE}, NAME-VERSION.tar.gz")
    return tree


def cmake_options() -> list[str]:
    """The options, and the flags that the Makefile gives the engine's compiler where it takes them."""
    compiler = os.environ.get("CXX", "c++")
    probe = [compiler, *NO_AMX, "-fsyntax-only", "-x", "c++", os.devnull]
    takes = shutil.which(compiler) and subprocess.run(probe, capture_output=True, check=False).returncode == 0
    flags = " ".join(NO_AMX) if takes else ""
    return [*OPTIONS, f"CMAKE_C_FLAGS={flags}", f"CMAKE_CXX_FLAGS={flags}"]


def build(tree: Path, folder: Path, jobs: int) -> None:
    """Configure and build the four targets into ``folder/bin``."""
    if shutil.which("cmake") is None:
        raise InputError("cmake is not installed; install it with the system's package manager or pip")
    generator = ["-G", "Ninja"] if shutil.which("ninja") else []
    build_dir = folder / "build"
    options = [f"-D{option}" for option in cmake_options()]
    configure = ["cmake", "-S", str(tree), "-B", str(build_dir), *generator, *options]
    _run(configure, "cmake could not configure llama.cpp")
    make = ["cmake", "--build", str(build_dir), "--parallel", str(jobs), "--target", *TARGETS]
    _run(make, "llama.cpp did not build")
    for target in TARGETS:  # llama.cpp chooses the place of its binaries itself
        shutil.copy2(build_dir / "bin" / target, folder / "bin" / target)


def describe(sdist: Path, tree: Path) -> dict[str, object]:
    """What goes into ``tools.json``."""
    return {
        "source": sdist.name.removesuffix(".tar.gz"),
        "tree": str(tree),
        "sdist_sha256": hashlib.sha256(sdist.read_bytes()).hexdigest(),
        "cmake_options": cmake_options(),
        "targets": list(TARGETS),
    }


def _warn_of_another_version(sdist: Path) -> None:
    if installed_version() not in sdist.name:
        say(f"note: {sdist.name} is not the installed {PACKAGE} {installed_version()}; kernels and formats may differ")


def _run(command: list[str], failure: str) -> None:
    say("$ " + " ".join(command))
    finished = subprocess.run(command, stdout=sys.stderr, check=False)
    if finished.returncode:
        raise InputError(f"{failure} (exit {finished.returncode}; see above)")


def main() -> int:
    """Parse the command line and build."""
    parser = argparse.ArgumentParser(description="Build llama.cpp's tools from llama-cpp-python's sdist.")
    parser.add_argument("folder", type=Path, help="where the sources, the build and bin/ go")
    parser.add_argument("--sdist", type=Path, help="a source archive that is already here")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    arguments = parser.parse_args()
    folder: Path = arguments.folder.resolve()
    try:
        (folder / "bin").mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as download:
            sdist = arguments.sdist or download_sdist(installed_version(), Path(download))
            tree = unpack(sdist, folder / "source")
            _warn_of_another_version(sdist)
            about = describe(sdist, tree)
        build(tree, folder, arguments.jobs)
        (folder / "tools.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    except EdgepressError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    say(f"built {', '.join(TARGETS)} in {folder / 'bin'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
