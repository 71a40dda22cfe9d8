"""Running on TensorRT, up to what needs a GPU: the loop over a cache in device memory, and every refusal."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import msgspec
import numpy as np
import pytest
import tensorrt_rtx
from checkpoints import write_checkpoint
from commands import edgepress
from host_device import HostDevice, HostExecution
from tiny_models import make_model_dir

from edgepress.artifact.families import is_matrix
from edgepress.artifact.tensorrt_layout import Profiles, read_layout, write_layout
from edgepress.errors import InputError
from edgepress.export.tensorrt.engine import build_engine
from edgepress.export.tensorrt.writer import export_tensorrt
from edgepress.runtime.cuda_device import Gpu, read_gpu
from edgepress.runtime.locate import ModelFile, choose_model, find_models, open_session
from edgepress.runtime.tensorrt_board import build_here
from edgepress.runtime.tensorrt_builder import profile_shapes
from edgepress.runtime.tensorrt_decoder import DeviceDecoder, device_memory
from edgepress.runtime.tensorrt_engines import engine_for, find_engines
from edgepress.runtime.tensorrt_execution import TensorrtExecution, _deserialized
from edgepress.runtime.torch_reference import TorchSession

CONTEXT = 64
TOKENS = [int(token) for token in np.random.default_rng(4).integers(0, 320, 40)]
VERSION = str(tensorrt_rtx.__version__)
needs_no_gpu = pytest.mark.skipif(read_gpu() is not None, reason="there is a GPU here")


@pytest.fixture(scope="module", params=["llama", "gemma3"])
def out(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported("llama", tmp_path_factory.mktemp("llama"))


def exported(family: str, place: Path) -> Path:
    student = make_model_dir(family, place / "student")
    checkpoint = write_checkpoint(student, place / "checkpoint", lambda name: "f16" if is_matrix(name) else "f32")
    (place / "tensorrt").mkdir()
    export_tensorrt(checkpoint, place / "tensorrt")
    layout = read_layout(place / "tensorrt")
    changed = msgspec.structs.replace(layout, call_tokens=16)
    (place / "tensorrt" / "tensorrt.json").write_bytes(write_layout(changed))
    return place


def make(out: Path, profiles: Profiles = "two") -> tuple[DeviceDecoder, HostExecution]:
    layout, device = read_layout(out / "tensorrt").settled("tensorrt", profiles), HostDevice()
    execution = HostExecution(out / "tensorrt", layout, device)
    return DeviceDecoder(layout, CONTEXT, device, execution), execution


def reference(out: Path) -> np.ndarray:
    with open_session(choose_model(out / "checkpoint"), context=CONTEXT, threads=1) as session:
        assert isinstance(session, TorchSession)
        return session.prefill(TOKENS)


def assert_close(found: np.ndarray, wanted: np.ndarray) -> None:
    assert found.shape == wanted.shape
    assert np.abs(found - wanted).max() < 2e-2 * np.abs(wanted).max()


def test_a_prompt_longer_than_a_call_answers_as_torch_does(out: Path) -> None:
    decoder, execution = make(out)
    wanted = reference(out)
    assert_close(decoder.append(TOKENS, "all"), wanted)
    assert decoder.position == len(TOKENS)
    assert execution.profiles_used == [0, 0, 0]
    decoder.reset()
    assert_close(decoder.append(TOKENS, "last"), wanted[-1:])


def test_single_tokens_take_the_profile_for_them_and_see_the_whole_cache(out: Path) -> None:
    decoder, execution = make(out)
    wanted = reference(out)
    decoder.append(TOKENS[:17], "last")
    found = np.concatenate([decoder.append([token], "last") for token in TOKENS[17:]])
    assert_close(found, wanted[17:])
    assert execution.profiles_used == [0, 1] + [1] * 23


def test_an_engine_with_one_profile_takes_it_for_prompts_and_single_tokens(out: Path) -> None:
    decoder, execution = make(out, "one")
    wanted = reference(out)
    found = [decoder.append(TOKENS[:17], "all"), *(decoder.append([token], "last") for token in TOKENS[17:])]
    assert_close(np.concatenate(found), wanted)
    assert execution.profiles_used == [0, 0] + [0] * 23


def test_a_reset_forgets_and_the_context_can_be_filled(out: Path) -> None:
    decoder, _ = make(out)
    first = decoder.append(TOKENS, "last")
    decoder.append([5] * (CONTEXT - len(TOKENS)), "last")
    decoder.reset()
    np.testing.assert_array_equal(decoder.append(TOKENS, "last"), first)


def test_the_memory_is_what_is_allocated_and_too_little_is_refused(out: Path) -> None:
    layout, device = read_layout(out / "tensorrt").settled("tensorrt"), HostDevice()
    execution = HostExecution(out / "tensorrt", layout, device)
    stated = device_memory(layout, CONTEXT)
    DeviceDecoder(layout, CONTEXT, device, execution)
    assert sum(len(held) for held in device.held.values()) == stated.total
    with pytest.raises(InputError, match="a context of 64 tokens needs 0 MiB on the GPU"):
        DeviceDecoder(layout, CONTEXT, HostDevice(stated.total - 1), execution)


@pytest.mark.parametrize("profiles", ["one", "two"])
def test_real_networks_have_the_names_shapes_and_profiles_of_the_layout(llama: Path, profiles: Profiles) -> None:
    layout = read_layout(llama / "tensorrt").settled("tensorrt_rtx", profiles)
    logger = tensorrt_rtx.Logger(tensorrt_rtx.Logger.ERROR)
    builder = tensorrt_rtx.Builder(logger)
    network = builder.create_network(1 << int(tensorrt_rtx.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = tensorrt_rtx.OnnxParser(network, logger)
    assert parser.parse_from_file(str(llama / "tensorrt" / "model.onnx"))
    inputs = {network.get_input(i).name: network.get_input(i) for i in range(network.num_inputs)}
    assert set(inputs) == set(layout.inputs)
    assert {network.get_output(i).name for i in range(network.num_outputs)} == set(layout.outputs)
    for index, shapes in enumerate(profile_shapes(layout).values()):
        profile = builder.create_optimization_profile()
        for name, (least, usual, most) in shapes.items():
            fixed = tuple(inputs[name].shape)
            assert all(size in (-1, given) for size, given in zip(fixed, most, strict=True)), (name, index)
            profile.set_shape(name, least, usual, most)


def test_engines_of_both_kinds_are_found_and_chosen_by_the_gpu(llama: Path) -> None:
    directory = llama / "tensorrt"
    build_engine(directory, "sm86")
    build_here(directory, library="tensorrt_rtx", target="sm120", profiles="two")
    found = {engine.place.capability: engine.profiles for engine in find_engines(directory)}
    assert found == {"sm86": "one", "sm120": "two"}
    versions = {"tensorrt_rtx": VERSION}
    for capability in ("sm86", "sm120"):
        gpu = Gpu(name="a GPU", capability=capability, cuda="13.0", integrated=False, total_bytes=1 << 33)
        assert engine_for(directory, gpu, versions).place.capability == capability
    other = Gpu(name="RTX 4090", capability="sm89", cuda="13.0", integrated=False, total_bytes=1 << 33)
    with pytest.raises(InputError, match=r"no engine that runs here \(.*here is RTX 4090 \(sm89\)\).*engine build"):
        engine_for(directory, other, versions)
    with pytest.raises(InputError, match="tensorrt_rtx is not installed, pip install 'edgepress"):
        engine_for(directory, other, {})


@pytest.mark.parametrize("name", ["model.onnx", "model.onnx.data"])
def test_an_engine_of_another_export_is_not_taken(llama: Path, tmp_path: Path, name: str) -> None:
    directory = tmp_path / "tensorrt"
    shutil.copytree(llama / "tensorrt", directory, ignore=shutil.ignore_patterns("engines"))
    record = build_here(directory, library="tensorrt_rtx", target="sm86").path.with_name("engine.json")
    gpu = Gpu(name="a GPU", capability="sm86", cuda="13.0", integrated=False, total_bytes=1 << 33)
    file = directory / name
    later = record.stat().st_mtime + 10
    os.utime(file, (later, later))
    assert engine_for(directory, gpu, {"tensorrt_rtx": VERSION}).folder == record.parent
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    os.utime(file, (later, later))
    with pytest.raises(InputError, match=f"{name} has changed since it was built"):
        engine_for(directory, gpu, {"tensorrt_rtx": VERSION})


@needs_no_gpu
def test_without_a_gpu_the_processor_goes_first_and_the_engine_says_what_is_missing(llama: Path) -> None:
    build_here(llama / "tensorrt", library="tensorrt_rtx", target="sm86")
    engines = [model.engine for model in find_models(llama / "tensorrt")]
    assert engines == ["onnxruntime", "tensorrt"]
    for command in (["bench", "--prompt", "4", "--generate", "2"], ["chat"]):
        message = edgepress(command[0], llama / "tensorrt", *command[1:], "--engine", "tensorrt").error()
        assert "no NVIDIA GPU or driver here" in message
    with pytest.raises(InputError, match="a context of 0 tokens"):
        open_session(ModelFile(engine="tensorrt", path=llama / "tensorrt"), context=0)


@needs_no_gpu
def test_a_real_engine_that_cannot_be_opened_here_is_one_line(llama: Path) -> None:
    built = build_here(llama / "tensorrt", library="tensorrt_rtx", target="sm86")
    with pytest.raises(InputError, match=r"tensorrt_rtx .* cannot open this engine here: .*(CUDA|Cuda)"):
        TensorrtExecution(tensorrt_rtx, built.path, read_layout(llama / "tensorrt").settled("tensorrt_rtx"), 0)


def test_an_empty_engine_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "model.engine").touch()
    with pytest.raises(InputError, match=r"model.engine: cannot be read as an engine .*; build it again"):
        _deserialized(None, tmp_path / "model.engine")


def test_a_directory_without_engines_has_none_for_tensorrt(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="none was built"):
        engine_for(tmp_path, None, {})


@pytest.mark.gpu
def test_an_engine_on_a_gpu_answers_as_torch_does(out: Path) -> None:
    build_here(out / "tensorrt")
    with open_session(ModelFile(engine="tensorrt", path=out / "tensorrt"), context=CONTEXT) as session:
        wanted = reference(out)
        assert_close(session.prefill(TOKENS), wanted)
        session.reset()
        session.prefill(TOKENS[:17], logits="last")
        assert_close(np.stack([session.decode(token) for token in TOKENS[17:]]), wanted[17:])
