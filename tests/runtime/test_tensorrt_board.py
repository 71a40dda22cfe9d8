"""Engines built by TensorRT-RTX, ahead of time: kept under their key, and refused in one line where they cannot be."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tensorrt_rtx
from checkpoints import write_checkpoint
from commands import edgepress
from exported_encoder import exported_copy, exported_once  # noqa: F401
from small_disk import run_on_small_disk
from tiny_models import make_model_dir

from edgepress.artifact.families import is_matrix
from edgepress.artifact.files import sole_writer, tree_bytes
from edgepress.errors import EdgepressError, InputError
from edgepress.export.tensorrt.writer import export_tensorrt
from edgepress.runtime.cuda_device import Gpu, module_part_number, read_gpu
from edgepress.runtime.tensorrt_board import attach_timings, build_here, find_built, serialized_timings, workspace_limit
from edgepress.runtime.tensorrt_place import Place, why_not_here

MIB = 1 << 20
without_gpu = pytest.mark.skipif(read_gpu() is not None, reason="there is a GPU here")


def test_an_engine_is_built_once_and_found_again(exported: Path) -> None:
    first = build_here(exported, library="tensorrt_rtx", target="sm86")
    assert first.record.engine_bytes == first.path.stat().st_size > 100_000
    changed = first.path.stat().st_mtime_ns
    second = build_here(exported, library="tensorrt_rtx", target="sm86")
    assert (first.reused, second.reused) == (False, True)
    assert second.path.stat().st_mtime_ns == changed


@pytest.mark.parametrize("name", ["model.onnx", "model.onnx.data", "encoder.json"])
def test_whatever_goes_into_an_engine_changes_its_place(exported: Path, name: str) -> None:
    first = build_here(exported, target="sm86")
    file = exported / name
    if name == "encoder.json":
        fields = json.loads(file.read_text("utf-8"))
        fields["profiles"]["encode"]["batch"] = [1, 2, 4]
        file.write_text(json.dumps(fields), encoding="utf-8")
    elif name == "model.onnx.data":
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(content)
    else:
        file.write_bytes(file.read_bytes() + b"\x32\x01x")  # a doc_string
    second = build_here(exported, target="sm86")
    assert not second.reused
    assert second.path.parent != first.path.parent


def test_two_builds_at_once_are_refused(exported: Path) -> None:
    engines = exported / "engines"
    engines.mkdir()
    with sole_writer(engines, engines / ".lock"):
        message = edgepress("engine", "build", exported, "--library", "tensorrt_rtx", "--target", "sm86")
    assert message.code == 2
    assert "engines: another edgepress run is writing here" in message.err
    assert not list(engines.glob("*/model.engine"))


_BUILD = """
import shutil, sys
from pathlib import Path
from edgepress.cli import main

export = Path(sys.argv[1]) / "t"
shutil.copytree(sys.argv[2], export)
sys.argv = ["edgepress", "engine", "build", str(export), "--library", "tensorrt_rtx", "--target", "sm86"]
try:
    main()
finally:
    print("left:", *export.glob("engines/*/*"))
"""


def test_a_full_disk_is_an_error_and_leaves_no_engine(exported: Path, tmp_path: Path) -> None:
    """TensorRT itself takes no notice of a stream that cannot be written, and says that the engine is done."""
    (tmp_path / "disk").mkdir()
    kilobytes = tree_bytes(exported) // 1024 + 100
    done = run_on_small_disk(_BUILD, tmp_path / "disk", kilobytes, str(exported))
    assert done.returncode == 2, done.stderr
    assert "the disk is full; free some space and run the same command again" in done.stderr
    assert done.stdout == "left:\n"


def test_a_damaged_engine_is_built_again(exported: Path) -> None:
    first = build_here(exported, target="sm120")
    first.path.write_bytes(first.path.read_bytes()[:1000])
    assert find_built(first.path.parent) is None
    assert not build_here(exported, target="sm120").reused


def test_low_memory_and_level_are_part_of_the_key(exported: Path) -> None:
    places = {
        build_here(exported, target="sm86", low_memory=low, level=level).path
        for low, level in ((False, 1), (True, 1), (False, 0))
    }
    assert len(places) == 3


def test_the_workspace_is_what_is_free_less_the_weights_twice(tmp_path: Path) -> None:
    assert workspace_limit(100 * MIB, 4000 * MIB, tmp_path) == (4000 - 200 - 600) * MIB
    with pytest.raises(InputError, match="building needs about 2664 MiB of memory, 2000 MiB are free"):
        workspace_limit(1000 * MIB, 2000 * MIB, tmp_path)


def test_timings_are_attached_and_those_that_do_not_fit_are_left(tmp_path: Path) -> None:
    builder = tensorrt_rtx.Builder(tensorrt_rtx.Logger(tensorrt_rtx.Logger.ERROR))
    file = tmp_path / "a.cache"
    cache = attach_timings(builder.create_builder_config(), file)
    file.write_bytes(serialized_timings(cache))
    assert attach_timings(builder.create_builder_config(), file) is not None


@without_gpu
def test_without_a_gpu_a_target_is_asked_for(exported: Path) -> None:
    message = edgepress("engine", "build", exported, "--library", "tensorrt_rtx").error()
    assert "no NVIDIA GPU or driver here" in message
    assert "--target" in message
    assert not (exported / "engines").exists()


def test_a_jetson_is_not_built_for_elsewhere(exported: Path) -> None:
    message = edgepress("engine", "build", exported, "--library", "tensorrt_rtx", "--target", "sm87").error()
    assert "cannot build for it ahead of time" in message


def test_a_target_is_a_name_in_any_spelling_and_checked_like_its_capability(exported: Path, tmp_path: Path) -> None:
    first = build_here(exported, library="tensorrt_rtx", target="GeForce RTX 3060")
    assert first.record.key.place.capability == "sm86"
    assert build_here(exported, library="tensorrt_rtx", target="SM86").reused
    for name in ("gtx-1080", "none"):
        message = edgepress("engine", "build", exported, "--library", "tensorrt_rtx", "--target", name).error()
        assert f"unknown target '{name}'; known targets: sm53" in message


def test_a_missing_library_names_its_extra(exported: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    try:
        import tensorrt  # noqa: F401
    except ModuleNotFoundError:
        message = edgepress("engine", "build", exported, "--library", "tensorrt").error()
        assert "pip install 'edgepress[tensorrt]'" in message
    assert "unknown library" in edgepress("engine", "build", exported, "--library", "trt").error()


def test_weights_that_a_gpu_cannot_compute_with_are_refused_before_building(tmp_path: Path) -> None:
    student = make_model_dir("llama", tmp_path / "student")
    chosen = {True: "trt_int4_64", False: "f32"}
    checkpoint = write_checkpoint(student, tmp_path / "checkpoint", lambda name: chosen[is_matrix(name)])
    (tmp_path / "tensorrt").mkdir()
    export_tensorrt(checkpoint, tmp_path / "tensorrt")
    with pytest.raises(InputError, match="cannot compute with int4 weights on sm75; it has float16, int8"):
        build_here(tmp_path / "tensorrt", library="tensorrt_rtx", target="sm75")
    assert build_here(tmp_path / "tensorrt", library="tensorrt_rtx", target="sm89").record.engine_bytes > 0


def test_a_directory_without_an_export_or_weights_is_refused(exported: Path, tmp_path: Path) -> None:
    assert "no TensorRT export here" in edgepress("engine", "build", tmp_path).error()
    (exported / "model.onnx.data").unlink()
    assert "model.onnx.data is missing" in edgepress("engine", "build", exported).error()


def test_a_graph_that_tensorrt_cannot_read_says_why(exported: Path) -> None:
    (exported / "model.onnx").write_bytes((exported / "model.onnx").read_bytes()[:-200])
    with pytest.raises(EdgepressError, match="TensorRT cannot read the graph"):
        build_here(exported, target="sm86")
    assert not list((exported / "engines").glob("*/model.engine"))


def test_an_engine_for_another_place_says_what_differs() -> None:
    gpu = Gpu(name="Orin", capability="sm87", cuda="12.6", integrated=True, total_bytes=8 << 30)
    here = Place(
        builder="tensorrt",
        version="10.3.0",
        cuda="12.6",
        capability="sm87",
        gpu="Orin",
        module="p3767-0003",
        power_mode="15W",
    )
    assert why_not_here(here, gpu, "10.3.0") is None
    assert why_not_here(here, gpu, "10.7.0") == "it was built by TensorRT 10.3.0, here is 10.7.0"
    other = Gpu(name="Thor", capability="sm110", cuda="13.0", integrated=True, total_bytes=1)
    assert why_not_here(here, other, "10.3.0") == "it was built for sm87, here is Thor (sm110)"
    assert why_not_here(here, None, "10.3.0") == "no NVIDIA GPU or driver here"


def test_the_module_comes_from_the_device_tree(tmp_path: Path) -> None:
    assert module_part_number(tmp_path) is None
    file = tmp_path / "proc" / "device-tree" / "compatible"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"nvidia,p3768-0000+p3767-0005\0nvidia,p3767-0005\0nvidia,tegra234\0")
    assert module_part_number(tmp_path) == "p3767-0005"
