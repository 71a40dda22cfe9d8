"""Every wrong input is one line on stderr and exit code 2, and leaves nothing under the final name."""

from __future__ import annotations

import json
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import edgepress, edgepress_process, program
from safetensors.numpy import load_file, save_file

Change = Callable[[Path], object]


def nothing(_: Path) -> None:
    pass


def cut(name: str, share: float = 0.5) -> Change:
    def change(place: Path) -> None:
        file = place / name
        file.write_bytes(file.read_bytes()[: int(file.stat().st_size * share)])

    return change


def write(name: str, content: str | bytes) -> Change:
    data = content.encode() if isinstance(content, str) else content
    return lambda place: (place / name).write_bytes(data)


def recipe(text: str) -> Change:
    return write("r.yaml", text)


def config(**fields: Any) -> Change:
    def change(place: Path) -> None:
        file = place / "student" / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text("utf-8")) | fields), encoding="utf-8")

    return change


def pickled(place: Path) -> None:
    (place / "student" / "model.safetensors").unlink()
    (place / "student" / "pytorch_model.bin").write_bytes(b"\x80\x02.")


def with_infinity(place: Path) -> None:
    file = place / "student" / "model.safetensors"
    tensors = load_file(file)
    tensors["model.layers.1.mlp.up_proj.weight"][3, 5] = np.inf
    save_file(tensors, file, metadata={"format": "pt"})


def gguf_counts(tensors: int, pairs: int) -> Change:
    return write("model.gguf", b"GGUF" + struct.pack("<IQQ", 3, tensors, pairs) + bytes(64))


def foreign_output(place: Path) -> None:
    (place / "elsewhere").mkdir()
    (place / "elsewhere" / "thesis.tex").write_text("x")


RUN = ["run", "student", "-r", "r.yaml", "-o", "out"]
EVAL = ["eval", "run", "--against", "student", "--text", "text.txt", "--context", "32"]

# What is wrong → (what to do first, the command, what the message says).
WRONG: dict[str, tuple[Change, list[str], str]] = {
    "missing directory": (nothing, ["run", "./absent", "-r", "4bit", "-o", "out"], "absent: no such file or directory"),
    "misspelt student": (nothing, ["run", "studnet", "-r", "4bit", "-o", "out"], "did you mean student"),
    "empty directory": (lambda p: (p / "empty").mkdir(), ["show", "empty"], "no config.json here"),
    "truncated safetensors": (cut("student/model.safetensors"), RUN, "damaged or truncated safetensors"),
    "empty safetensors": (write("student/model.safetensors", b""), RUN, "damaged or truncated safetensors"),
    "truncated GGUF": (cut("run/gguf/model.gguf", 0.9), ["run", "run/gguf/model.gguf", *RUN[2:]], "truncated GGUF"),
    "truncated GGUF header": (
        cut("run/gguf/model.gguf", 0.001),
        ["show", "run/gguf/model.gguf"],
        "damaged GGUF header",
    ),
    "truncated GGUF to measure": (cut("run/gguf/model.gguf", 0.9), EVAL, "truncated GGUF"),
    "truncated GGUF to time": (cut("run/gguf/model.gguf", 0.9), ["bench", "run/gguf"], "truncated GGUF"),
    "absurd number of tensors": (
        gguf_counts(2**60, 1),
        ["run", "model.gguf", *RUN[2:]],
        "claims 1152921504606846976 tens",
    ),
    "absurd number of keys": (gguf_counts(1, 2**63), ["show", "model.gguf"], "claims 9223372036854775808 metadata"),
    "absurd GGUF to talk to": (gguf_counts(2**60, 1), ["chat", "model.gguf"], "more than the 64 bytes that are left"),
    "no GGUF": (write("model.gguf", b"PK\x03\x04" + bytes(99)), ["show", "model.gguf"], "not a GGUF file"),
    "pickle checkpoint": (pickled, RUN, "pytorch_model.bin is a pickle checkpoint, which can run code and is never"),
    "pickle file": (write("model.pt", b"\x80\x02."), ["run", "model.pt", *RUN[2:]], "a pickle checkpoint"),
    "mixture of experts": (config(model_type="mixtral"), RUN, "unsupported model family"),
    "soft caps": (config(final_logit_softcapping=30.0), RUN, "final_logit_softcapping = 30.0 is not supported"),
    "absurd depth": (config(num_hidden_layers=10**6), RUN, "num_hidden_layers = 1000000 is beyond"),
    "broken configuration": (write("student/config.json", "{"), RUN, "config.json"),
    "no such recipe": (nothing, ["run", "student", "-r", "5bit", "-o", "out"], "shipped recipes: 4bit, 8bit, demo"),
    "no such recipe file": (nothing, ["run", "student", "-r", "x.yaml", "-o", "out"], "x.yaml: no such recipe file"),
    "unknown step": (
        recipe("compress: [{step: prune_experts, keep: 0.5}]"),
        RUN,
        "r.yaml: compress[0]: unknown step 'prune_experts'; "
        "steps: trim_vocabulary, prune_ffn, prune_heads, prune_layers, prune_hidden, distill, sparsify, quantize",
    ),
    "misspelt field": (
        recipe("compress: [{step: quantize, fromat: q4_0}]"),
        RUN,
        "r.yaml: unknown field 'fromat' at compress[0]; fields there: solver, format",
    ),
    "misspelt section": (
        recipe("benhc: {}"),
        RUN,
        "r.yaml: unknown field 'benhc' at the top; fields there: calibration",
    ),
    "unknown solver": (
        recipe("compress: [{step: quantize, solver: magic}]"),
        RUN,
        "'magic' at compress[0].solver is none of the choices: gptaq, nearest, scale_search",
    ),
    "not YAML": (recipe("compress: ["), RUN, "r.yaml: not YAML"),
    "unknown format": (
        recipe("compress: [{step: quantize, format: q3_Z}]"),
        RUN,
        "unknown format 'q3_Z'; known formats: f32, f16, q8_0",
    ),
    "format that does not fit": (
        recipe("compress: [{step: quantize, format: q4_K}]"),
        RUN,
        "rows of 64 values are not a multiple of q4_K's block of 256; formats that fit: f32, f16, q8_0, q5_1",
    ),
    "pattern that matches nothing": (
        recipe("compress: [{step: quantize, formats: {'*.ffn_dwn': q8_0}}]"),
        RUN,
        "pattern '*.ffn_dwn' matches no matrix",
    ),
    "missing calibration text": (
        recipe("calibration: {self: false, files: [absent.txt]}\ncompress: [{step: quantize}]"),
        RUN,
        "calibration.files: absent.txt: no such file",
    ),
    "missing evaluation text": (
        recipe("evaluate: {files: [absent.txt]}"),
        RUN,
        "evaluate.files: absent.txt: no such file",
    ),
    "depth beyond the context": (recipe("bench: {depth: [99999]}"), RUN, "bench.depth: 99999 tokens leave no room"),
    "output that is a file": (nothing, [*RUN[:-1], "text.txt"], "text.txt: exists and is not a directory"),
    "output of somebody else": (
        foreign_output,
        [*RUN[:-1], "elsewhere"],
        "elsewhere: is not empty and was not written by",
    ),
    "unknown target": (nothing, ["export", "run", "--to", "ggml", "-o", "out"], "known targets: gguf, onnx"),
    "export of a student": (nothing, ["export", "student", "--to", "gguf", "-o", "out"], "student: no checkpoint here"),
    "damaged checkpoint": (
        write("run/checkpoint/tensors.json", "{}"),
        ["export", "run", "--to", "gguf", "-o", "out"],
        "run/checkpoint: damaged checkpoint",
    ),
    "nothing to measure": (nothing, ["eval", "student", *EVAL[2:]], "student: no .gguf file, ONNX directory"),
    "nothing at the path": (nothing, ["bench", "absent"], "absent: no such file or directory"),
    "unknown engine": (nothing, [*EVAL, "--engine", "vllm"], "known engines: llama.cpp, onnxruntime, torch"),
    "engine without a model": (
        nothing,
        ["bench", "run/gguf", "--engine", "torch"],
        "no model for torch; there is one for",
    ),
    "missing text": (nothing, [*EVAL[:5], "absent.txt", *EVAL[6:]], "absent.txt: cannot be read"),
    "text that is none": (write("text.txt", b"caf\xe9"), EVAL, "text.txt: not UTF-8 text (byte 3)"),
    "too little text": (write("text.txt", "two words"), EVAL, "do not fill one window of 32"),
    "context beyond the student's": (nothing, [*EVAL[:-1], "4096"], "context 4096 exceeds the student's 256 tokens"),
    "context beyond the model's": (
        nothing,
        ["chat", "run", "--context", "4096"],
        "context 4096 is outside the model's 1 to",
    ),
    "two things to time": (
        nothing,
        ["bench", "run", "--compare", "run", "run"],
        "give either one ARTIFACT or --compare",
    ),
    "nothing to time": (nothing, ["bench"], "give either one ARTIFACT or --compare A B"),
    "depth too deep to time": (nothing, ["bench", "run", "--depth", "9999", "--repetitions", "1"], "context"),
    "missing prompts": (nothing, ["generate", "run", "--prompts", "absent.txt"], "absent.txt: cannot be read"),
    "no prompts": (
        write("text.txt", "\n \n"),
        ["generate", "run", "--prompts", "text.txt"],
        "text.txt: no prompts in it",
    ),
    "damaged manifest": (write("run/manifest.json", "{"), ["show", "run"], "manifest.json: not a manifest"),
    "another manifest": (write("run/manifest.json", "[]"), ["show", "run"], "manifest.json: not a manifest"),
    "nothing to show": (nothing, ["show", "absent"], "absent: no such file or directory"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_input_is_one_line_and_exit_2(wrong: str, place: Path) -> None:
    change, command, message = WRONG[wrong]
    change(place)
    assert message in edgepress(*command).error()


def test_a_weight_that_is_no_number_is_named_and_no_checkpoint_is_left(place: Path) -> None:
    """Found on the way, when the weights are read: the lines before it say what was going on."""
    with_infinity(place)
    done = edgepress("run", "student", "-r", "r.yaml", "-o", "elsewhere")
    assert (done.code, done.out) == (2, "")
    assert "model.layers.1.mlp.up_proj.weight has 1 values of 8192 that are NaN" in done.err.splitlines()[-1]
    assert [line for line in done.err.splitlines() if line.startswith("error: ")] == done.err.splitlines()[-1:]
    assert {path.name for path in (place / "elsewhere").iterdir()} == {".edgepress"}


@pytest.mark.parametrize("wrong", ["pickle checkpoint", "misspelt field"])
def test_the_installed_program_says_the_same(wrong: str, place: Path) -> None:
    change, command, message = WRONG[wrong]
    change(place)
    assert message in edgepress_process(*command).error()


def test_a_closed_standard_output_changes_nothing(place: Path) -> None:
    closed = ["sh", "-c", 'exec "$@" >&-', "sh", *program(), "show", str(place / "none")]
    done = subprocess.run(closed, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) == 1


def test_without_a_network_a_hub_id_is_one_line(place: Path) -> None:
    done = edgepress_process("run", "nobody/no-such-model", "-r", "4bit", "-o", "out", HF_HUB_OFFLINE="1")
    assert "nobody/no-such-model: not a local directory, and the hub cannot be reached" in done.error()
