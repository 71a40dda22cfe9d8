"""A shell script that builds and times an export's engine with trtexec, for boards without Python.

trtexec comes with TensorRT (on Jetson in /usr/src/tensorrt/bin). Its outputs are read back by
:mod:`edgepress.benchmarks.trtexec`.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping

from edgepress.artifact.tensorrt_layout import Profiles, Shapes
from edgepress.runtime.tensorrt_board import DEFAULT_LEVEL, LOW_MEMORY_LEVEL
from edgepress.runtime.tensorrt_builder import Layout, has_sparse_weights, profile_shapes, settled

_KINDS = ("minShapes", "optShapes", "maxShapes")

_HEAD = r"""#!/bin/sh
# Builds the engine of the export in this script's directory with trtexec, then times every profile at its usual shapes.
# Afterwards, on any machine: edgepress engine read engines/trtexec-*/*.json engines/trtexec-*/*.log
set -eu
script=$(basename "$0")
trtexec=$(command -v "${TRTEXEC:-trtexec}" || echo "${TRTEXEC:-/usr/src/tensorrt/bin/trtexec}")
case $trtexec in /*) ;; *) trtexec=$PWD/$trtexec ;; esac
cd "$(dirname "$0")"
[ -x "$trtexec" ] || { echo "error: no trtexec at $trtexec; install TensorRT or set TRTEXEC" >&2; exit 2; }
[ -f "$script" ] && [ -f model.onnx ] && [ -f model.onnx.data ] || {
    echo "error: no model.onnx and model.onnx.data beside the script; run it as a file, in the export" >&2
    exit 2
}

# One engine per graph, shapes, TensorRT, board and power mode.
mode=$( (nvpmodel -q 2>/dev/null || true) | grep -i 'power mode' | head -n 1 || true)
board=$(cat /proc/device-tree/model 2>/dev/null | tr -d '\0')
[ -n "$board" ] || board=$(nvidia-smi --query-gpu=name --format=csv,noheader 2>/dev/null || true)
version=$("$trtexec" --help 2>/dev/null | grep -o 'TensorRT v[0-9]*' | head -n 1 || true)
key=$( (cat model.onnx model.onnx.data "$script"; echo "$mode $board $version") | sha256sum | cut -c 1-12)
out=engines/trtexec-$key
mkdir -p "$out" engines/timing

# What is free, less the weights twice and the library, in MiB.
free=$(awk '/MemAvailable/ {print int($2 / 1024)}' /proc/meminfo)
weights=$(($(wc -c < model.onnx.data) / 1048576))
workspace=$((free - 2 * weights - 600))
[ "$workspace" -ge 64 ] || {
    echo "error: building needs about $((2 * weights + 664)) MiB, $free MiB are free; stop other programs" >&2
    exit 2
}
"""


def build_script(layout: Layout, *, profiles: Profiles | None = None, low_memory: bool = False) -> str:
    """The script, for ``DIR/build_engine.sh``; ``profiles`` as in :func:`~edgepress.runtime.tensorrt_board.build_here`.

    Raises:
        InputError: profiles asked for an encoder.
    """
    level = LOW_MEMORY_LEVEL if low_memory else DEFAULT_LEVEL
    build = [
        '"$trtexec" --onnx=model.onnx --saveEngine="$out/model.engine.partial" --stronglyTyped --skipInference',
        f'--memPoolSize=workspace:"$workspace"M --builderOptimizationLevel={level} --profilingVerbosity=detailed',
        '--timingCacheFile="engines/timing/trtexec-$(echo "$mode $board $version" | sha256sum | cut -c 1-12).cache"',
        "--noTF32",
        *(["--maxAuxStreams=0"] if low_memory else []),
        *(["--sparsity=enable"] if has_sparse_weights(layout) else []),
    ]
    found = profile_shapes(settled(layout, "tensorrt", profiles))
    for index, shapes in enumerate(found.values()):
        build.append(f"--profile={index}")
        build += [f"--{kind}={_shapes(shapes, at)}" for at, kind in enumerate(_KINDS)]
    parts = [_HEAD, 'if [ ! -f "$out/model.engine" ]; then']
    parts.append("    " + " \\\n        ".join(build) + ' > "$out/build.log" 2>&1 ||')
    parts.append('        { tail -n 5 "$out/build.log" >&2; exit 1; }')
    parts.append('    mv "$out/model.engine.partial" "$out/model.engine"\nfi\n')
    for index, (name, shapes) in enumerate(found.items()):
        parts.append(_timing(index, name, shapes))
    parts.append('echo "$out"')
    return "\n".join(parts) + "\n"


def _timing(index: int, name: str, shapes: Mapping[str, Shapes]) -> str:
    run = [
        f'rm -f "$out/{name}".*\n"$trtexec" --loadEngine="$out/model.engine" --useProfile={index}',
        f"--shapes={_shapes(shapes, 1)}",
        "--warmUp=500 --duration=10 --iterations=100 --noDataTransfers --useSpinWait --percentile=50,90,99",
        f'--exportTimes="$out/{name}.times.json" --dumpProfile --exportProfile="$out/{name}.profile.json"',
        f'--separateProfileRun > "$out/{name}.log" 2>&1 || {{ tail -n 5 "$out/{name}.log" >&2; exit 1; }}',
    ]
    return " \\\n    ".join(run)


def _shapes(shapes: Mapping[str, Shapes], at: int) -> str:
    return shlex.quote(
        ",".join(f"{name}:{'x'.join(str(size) for size in found[at])}" for name, found in shapes.items())
    )
