"""What llama-quantize would have made of the same student: the stage ``llama.cpp``, a file for every mixture.

As with llama.cpp's own tools, the student in float32 is what is quantized, and the importance matrix has an entry for
every linear of the layers and none for the embedding and the head: the mean squares of their inputs,

    importance_j = E x_j²

over the recipe's own calibration windows, those that are trained on included, so that both sides know the same text. A
recipe that looks at no text is compared with files made without one.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgepress.artifact.families import FAMILIES, gguf_names
from edgepress.artifact.weights import WeightSource
from edgepress.benchmarks.report.peer_labels import PEER, peer_label
from edgepress.compress.calibrate.tokens import calibration_digest
from edgepress.compress.student.student import Student
from edgepress.pipeline.float_gguf import write_float_gguf
from edgepress.pipeline.solve import calibration_text
from edgepress.pipeline.stages import Output, stage_key
from edgepress.pipeline.text_needed import needs_calibration
from edgepress.progress import progress
from edgepress.recipe import Recipe
from edgepress.runtime.llamacpp_library import library
from edgepress.runtime.llamacpp_quantize import quantize_file
from edgepress.runtime.locate import ModelFile

Floats = NDArray[np.float32]


def peer_models(student: Student, recipe: Recipe, output: Output) -> dict[str, ModelFile]:
    """The files that a recipe compares with, by label; made unless they are there.

    Raises:
        EdgepressError: llama.cpp fails.
        InputError: the disk is full.
    """
    names = tuple(dict.fromkeys(recipe.compare))
    if not names:
        return {}

    def make(directory: Path) -> None:
        plain = directory / "student.gguf"
        write_float_gguf(student, "f32", plain)
        importance = _recipe_importance(student, recipe)
        with progress("llama.cpp's own files", len(names)) as advance:
            for name in names:
                quantize_file(plain, directory / f"{name}.gguf", name, importance)
                advance(1)
        plain.unlink()

    text = calibration_digest(recipe.calibration) if needs_calibration(recipe) else None
    trained = recipe.quantize.qad_samples if recipe.quantize.qad_tokens else None
    key = stage_key("llama-quantize", 2, student.digest(), student.name, names, text, trained, library().version)
    directory = output.run(PEER, key, make)
    return {peer_label(name): ModelFile(engine="llama.cpp", path=directory / f"{name}.gguf") for name in names}


def _recipe_importance(student: Student, recipe: Recipe) -> dict[str, Floats]:
    if not needs_calibration(recipe):
        return {}
    return importance_matrix(student, calibration_text(student, recipe).training)


def importance_matrix(source: WeightSource, windows: NDArray[np.int32]) -> dict[str, Floats]:
    """Mean square of each input feature of every linear of the layers, (columns,), by GGUF tensor name.

    Args:
        source: the model.
        windows: calibration tokens, int32, (samples, length).
    """
    from edgepress.compress.calibrate.walk import LayerWalk

    names = gguf_names(FAMILIES[source.spec.family], source.spec.depth)
    found: dict[str, Floats] = {}
    with progress("importance matrix", source.spec.depth) as advance:
        for visit in LayerWalk(source, windows).layers():
            found |= {names[name]: values for name, values in visit.mean_square.items()}
            advance(1)
    return found
