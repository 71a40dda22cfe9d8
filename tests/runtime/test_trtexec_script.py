"""The script that builds and times an engine with trtexec, for boards without Python."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from checkpoints import write_checkpoint
from commands import edgepress
from exported_encoder import exported_copy, exported_once  # noqa: F401
from tiny_models import make_model_dir

from edgepress.artifact.families import is_matrix
from edgepress.export.tensorrt.writer import export_tensorrt

# Options that trtexec knows in TensorRT 10.0, 10.3, 10.7, 10.13, 10.16 and 11.1 alike: samples/common/sampleOptions.cpp
# in github.com/NVIDIA/TensorRT. It refuses any other.
_KNOWN = """allocationStrategy allowGPUFallback allowWeightStreaming avgRuns avgTiming buildDLAStandalone
    builderOptimizationLevel device directIO dumpLayerInfo dumpOptimizationProfile dumpOutput dumpProfile
    dumpRawBindingsToFile dumpRefit duration dynamicPlugins errorOnTimingCacheMiss excludeLeanRuntime exportLayerInfo
    exportOutput exportProfile exportTimes getPlanVersionOnly hardwareCompatibilityLevel help idleTime
    ignoreParsedPluginLibs infStreams inputIOFormats int8 iterations layerDeviceTypes leanDLLPath loadEngine loadInputs
    markDebug maxAuxStreams maxShapes memPoolSize minShapes noBuilderCache noCompilationCache noDataTransfers noTF32
    onnx optShapes outputIOFormats percentile persistentCacheRatio pi pluginInstanceNorm plugins preview profile
    profilingVerbosity refit safe saveDebugTensors saveEngine separateProfileRun setPluginsToSerialize shapes
    skipInference sleepTime sparsity staticPlugins streams stripWeights stronglyTyped tacticSources tempdir
    tempfileControls threads timeDeserialize timeRefit timingCacheFile useCudaGraph useDLACore useManagedMemory
    useProfile useRuntime useSpinWait vc verbose versionCompatible warmUp weightStreamingBudget"""
TRTEXEC_OPTIONS = frozenset(f"--{name}" for name in _KNOWN.split())


@pytest.mark.parametrize(("asked", "count"), [((), 2), (("--profiles", "one"), 1), (("--profiles", "two"), 2)])
def test_the_script_builds_and_times_as_many_profiles_as_are_asked_for(
    tmp_path: Path, asked: tuple[str, ...], count: int
) -> None:
    student = make_model_dir("llama", tmp_path / "student")
    checkpoint = write_checkpoint(student, tmp_path / "checkpoint", lambda name: "f16" if is_matrix(name) else "f32")
    (tmp_path / "tensorrt").mkdir()
    export_tensorrt(checkpoint, tmp_path / "tensorrt")
    edgepress("engine", "script", tmp_path / "tensorrt", *asked)
    text = (tmp_path / "tensorrt" / "build_engine.sh").read_text("utf-8")
    assert text.count("--maxShapes=") == text.count("--loadEngine=") == count
    assert "an engine has one or two" in edgepress("engine", "script", tmp_path / "tensorrt", "--profiles", "3").error()


def test_an_encoder_has_one_profile_and_no_choice(exported: Path) -> None:
    asked = ("engine", "build", exported, "--target", "sm86", "--profiles", "one")
    assert "the choice is a decoder's" in edgepress(*asked).error()


def test_the_script_is_a_shell_program_with_every_shape(exported: Path, tmp_path: Path) -> None:
    edgepress("engine", "script", exported)
    script = exported / "build_engine.sh"
    assert subprocess.run(["sh", "-n", script], check=False).returncode == 0
    text = script.read_text("utf-8")
    for expected in ("--minShapes=pixel_values:1x3x32x32", "--maxShapes=pixel_values:32x3x32x32", "--stronglyTyped"):
        assert expected in text


@pytest.mark.parametrize("code", [0, 1])
def test_the_script_builds_times_and_keeps_nothing_of_a_failure(exported: Path, tmp_path: Path, code: int) -> None:
    edgepress("engine", "script", exported, "--low-memory")
    trtexec = tmp_path / "trtexec"
    trtexec.write_text(
        "#!/bin/sh\nfor a; do case $a in --saveEngine=*) echo engine > ${a#*=};; esac; done\n"
        f'echo "$@" >> {tmp_path}/calls\nexit {code}\n',
        encoding="utf-8",
    )
    trtexec.chmod(0o755)
    done = subprocess.run(
        [exported / "build_engine.sh"], env={"TRTEXEC": str(trtexec), "PATH": "/usr/bin:/bin"}, check=False
    )
    assert done.returncode == code
    calls = [line for line in (tmp_path / "calls").read_text("utf-8").splitlines() if line != "--help"]
    options = {word.partition("=")[0] for call in calls for word in call.split() if word.startswith("--")}
    assert options <= TRTEXEC_OPTIONS
    assert {"--skipInference", "--noTF32", "--stronglyTyped"} <= set(calls[0].split())
    engines = list((exported / "engines").glob("trtexec-*/model.engine"))
    assert len(engines) == (code == 0)
    if code == 0:
        assert "--loadEngine=" in calls[1]
        assert "--exportTimes=" in calls[1]
        assert "--useProfile=0" in calls[1].split()


def test_power_modes_have_engines_and_timings_of_their_own(exported: Path, tmp_path: Path) -> None:
    """nvpmodel says other things before the mode, such as the fan's."""
    edgepress("engine", "script", exported)
    for name, body in (
        ("trtexec", 'for a; do case $a in --saveEngine=* | --timingCacheFile=*) echo x > "${a#*=}";; esac; done'),
        ("nvpmodel", 'echo "NV Fan Mode:quiet"; echo "NV Power Mode: $MODE"; echo 0'),
    ):
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n", encoding="utf-8")
        (tmp_path / name).chmod(0o755)
    for mode in ("15W", "MAXN", "15W"):
        environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "MODE": mode, "TRTEXEC": "trtexec"}
        subprocess.run([exported / "build_engine.sh"], env=environment, check=True, capture_output=True)
    assert len(list((exported / "engines").glob("trtexec-*"))) == 2
    assert len(list((exported / "engines" / "timing").glob("*.cache"))) == 2


def test_what_an_earlier_run_timed_does_not_outlive_a_failure(exported: Path, tmp_path: Path) -> None:
    edgepress("engine", "script", exported)
    trtexec = tmp_path / "trtexec"
    body = 'for a; do case $a in --saveEngine=* | --exportTimes=*) echo x > "${a#*=}";; esac; done'
    codes = []
    for fails in (False, True):
        program = "case $* in *--loadEngine=*) exit 1;; esac" if fails else body
        trtexec.write_text(f"#!/bin/sh\n{program}\n", encoding="utf-8")
        trtexec.chmod(0o755)
        done = subprocess.run(
            ["./build_engine.sh"], cwd=exported, env={"PATH": "/usr/bin:/bin", "TRTEXEC": str(trtexec)}, check=False
        )
        codes.append(done.returncode)
        assert len(list((exported / "engines").glob("trtexec-*/*.times.json"))) == (not fails)
    assert codes == [0, 1]


def test_a_directory_is_no_script(exported: Path, tmp_path: Path) -> None:
    assert "a directory; name the script" in edgepress("engine", "script", exported, "-o", tmp_path).error()


def test_a_script_without_its_export_says_so(exported: Path, tmp_path: Path) -> None:
    edgepress("engine", "script", exported)
    (tmp_path / "build_engine.sh").write_bytes((exported / "build_engine.sh").read_bytes())
    for called, says in (("/bin/true", "no model.onnx"), ("none", "no trtexec at ")):
        done = subprocess.run(
            ["sh", tmp_path / "build_engine.sh"], env={"PATH": "/usr/bin:/bin", "TRTEXEC": called},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert says in done.stderr


def test_the_script_keeps_engines_of_other_shapes_apart_wherever_it_is_called_from(
    exported: Path, tmp_path: Path
) -> None:
    trtexec = tmp_path / "trtexec"
    trtexec.write_text(
        "#!/bin/sh\nfor a; do case $a in --saveEngine=*) echo engine > ${a#*=};; esac; done\n", encoding="utf-8"
    )
    trtexec.chmod(0o755)
    edgepress("engine", "script", exported)
    script, environment = exported / "build_engine.sh", {"TRTEXEC": str(trtexec), "PATH": "/usr/bin:/bin"}

    def build() -> str:
        called = [f"{exported.name}/build_engine.sh"]
        done = subprocess.run(called, env=environment, cwd=exported.parent, capture_output=True, text=True, check=True)
        assert done.stderr == ""
        return done.stdout

    first = build()
    script.write_text(script.read_text("utf-8").replace(":1x3x32x32", ":2x3x32x32"), encoding="utf-8")
    assert build() != first
