"""edgepress beside llama.cpp's own converter: one Hugging Face directory, two float32 GGUF files, every key and tensor.

    python benchmarks/peers/gguf_converter_parity.py HF_DIRECTORY path/to/convert_hf_to_gguf.py [--pre NAME]

The converter knows byte-level tokenizers by a hash of what they do to one text and refuses those that it does not know;
``--pre`` names the pre-tokenizer it shall then assume. Prints a table of the metadata that differs and one line about
the tensors. The exit code is 1 when a tensor's name, shape, type or bytes differ. Only the rope factors, which are not
stored but computed, may differ by rounding: the converter computes them in float32, edgepress in float64.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import gguf
import numpy as np

from edgepress.artifact.checkpoint import Checkpoint, CheckpointWriter
from edgepress.compress.student.hf_directory import HfDirectory
from edgepress.export.gguf import export_gguf, verify_gguf

COMPUTED = "rope_freqs.weight"
ROUNDING = 1e-6  # relative; a float32 has 6e-8

_BOOTSTRAP = """
import runpy, sys
script, pre = sys.argv[1], sys.argv[2]
folder = script.rpartition("/")[0]
sys.path[:0] = [folder, folder + "/gguf-py"]
if pre:
    from conversion.base import TextModel
    recognise = TextModel.get_vocab_base_pre
    def recognise_or_assume(self, tokenizer):
        try:
            return recognise(self, tokenizer)
        except NotImplementedError:
            return pre
    TextModel.get_vocab_base_pre = recognise_or_assume
sys.argv = [script, *sys.argv[3:]]
runpy.run_path(script, run_name="__main__")
"""


def main() -> int:
    options = parse_arguments()
    with TemporaryDirectory(prefix="gguf-parity-") as working:
        ours, theirs = Path(working) / "edgepress.gguf", Path(working) / "llama.cpp.gguf"
        convert_with_llama_cpp(options.model, options.converter.resolve(), options.pre, theirs)
        convert_with_edgepress(options.model, Path(working) / "checkpoint", ours)
        read_ours, read_theirs = gguf.GGUFReader(ours), gguf.GGUFReader(theirs)
        print_metadata(read_ours, read_theirs)
        differences = tensor_differences(read_ours, read_theirs)
    print()
    for line in differences:
        print(line)
    print(f"{len(read_theirs.tensors)} tensors by llama.cpp, {len(read_ours.tensors)} by edgepress: ", end="")
    print(f"{len(differences)} differences" if differences else f"all equal to the bit ({COMPUTED} to rounding)")
    return 1 if differences else 0


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="edgepress's GGUF export beside llama.cpp's converter, in float32.")
    parser.add_argument("model", type=Path, help="a Hugging Face directory")
    parser.add_argument("converter", type=Path, help="llama.cpp's convert_hf_to_gguf.py, in its source tree")
    parser.add_argument("--pre", default="", help="pre-tokenizer the converter assumes when it recognises none")
    return parser.parse_args()


def convert_with_llama_cpp(model: Path, converter: Path, pre: str, out: Path) -> None:
    arguments = [str(converter), pre, str(model), "--outtype", "f32", "--outfile", str(out)]
    done = subprocess.run([sys.executable, "-c", _BOOTSTRAP, *arguments], capture_output=True, text=True, check=False)
    if done.returncode or not out.is_file():
        raise SystemExit(f"{converter} failed:\n{done.stderr[-3000:]}")


def convert_with_edgepress(model: Path, working: Path, out: Path) -> None:
    source = HfDirectory(model)
    working.mkdir()
    writer = CheckpointWriter(working, len(source.names))
    for name in source.names:
        writer.write_shard({name: source.read(name)}, {name: "f32"})
    writer.finish(source.config, model.name)
    for file in source.tokenizer_dir.iterdir():
        if file.suffix in (".json", ".jinja", ".model") and not (working / file.name).exists():
            (working / file.name).write_bytes(file.read_bytes())
    checkpoint = Checkpoint(working)
    export_gguf(checkpoint, out)
    verify_gguf(out, checkpoint)


def print_metadata(ours: Any, theirs: Any) -> None:
    mine, other = _metadata(ours), _metadata(theirs)
    same = [key for key in other if key in mine and mine[key] == other[key]]
    print(f"{len(same)} metadata keys equal: {', '.join(same)}")
    print(f"\n{'key':<44} {'llama.cpp':<32} edgepress")
    for key in [*other, *(key for key in mine if key not in other)]:
        if key not in same:
            print(f"{key:<44} {_show(other, key):<32} {_show(mine, key)}")


def _metadata(reader: Any) -> dict[str, Any]:
    return {key: field.contents() for key, field in reader.fields.items() if not key.startswith("GGUF.")}


def _show(metadata: dict[str, Any], key: str) -> str:
    if key not in metadata:
        return "—"
    text = repr(metadata[key])
    return text if len(text) <= 30 else f"{text[:27]}..."


def tensor_differences(ours: Any, theirs: Any) -> list[str]:
    mine, other = ({tensor.name: tensor for tensor in reader.tensors} for reader in (ours, theirs))
    found = [f"{name}: only by llama.cpp" for name in other if name not in mine]
    found += [f"{name}: only by edgepress" for name in mine if name not in other]
    for name in (name for name in other if name in mine):
        a, b = mine[name], other[name]
        if a.tensor_type != b.tensor_type or list(a.shape) != list(b.shape):
            found.append(f"{name}: {b.tensor_type.name} {list(b.shape)} against {a.tensor_type.name} {list(a.shape)}")
        elif name == COMPUTED and np.allclose(a.data, b.data, rtol=ROUNDING, atol=0.0):
            continue
        elif not np.array_equal(a.data.view(np.uint8), b.data.view(np.uint8)):
            found.append(f"{name}: values differ by up to {float(np.abs(a.data - b.data).max()):.3g}")
    return found


if __name__ == "__main__":
    sys.exit(main())
