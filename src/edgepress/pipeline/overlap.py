"""Where calibration and evaluation text meet: in a recipe, and when an artifact is evaluated later."""

from __future__ import annotations

from pathlib import Path

from edgepress.artifact.manifest import MANIFEST_FILE, read_manifest
from edgepress.compress.calibrate.overlap import refuse_overlap
from edgepress.compress.calibrate.tokens import read_text
from edgepress.errors import InputError
from edgepress.pipeline.measure import EVALUATION_SEED
from edgepress.progress import say
from edgepress.recipe import Recipe


def check_recipe_texts(recipe: Recipe) -> None:
    """Refuse a recipe that would measure on its own calibration text.

    Raises:
        InputError: the files share a run of words, or the student would write both from one seed.
    """
    own = recipe.evaluate and not recipe.evaluate.files and recipe.calibration.self_generated
    if own and recipe.calibration.seed == EVALUATION_SEED:
        raise InputError(
            f"calibration.seed: the student writes its evaluation text from seed {EVALUATION_SEED}; take another"
        )
    if recipe.evaluate and recipe.evaluate.files and recipe.calibration.files:
        calibration = [read_text(Path(name)) for name in recipe.calibration.files]
        evaluation = [read_text(Path(name)) for name in recipe.evaluate.files]
        refuse_overlap(calibration, evaluation, "leave evaluate.files empty")


def check_evaluation_texts(artifact: Path, texts: tuple[Path, ...]) -> None:
    """Refuse to evaluate an artifact on text that its manifest names as calibration text; say where that is not known.

    Raises:
        InputError: the files share a run of words.
    """
    places = (artifact, *artifact.absolute().parents[:2])
    root = next((place for place in places if (place / MANIFEST_FILE).is_file()), None)
    if root is None:
        return
    try:
        lineage = read_manifest(root).lineage
    except InputError:  # a damaged manifest does not keep the files beside it from being measured
        return
    files = [Path(name) for name in lineage.recipe.get("calibration", {}).get("files", ())]
    if lineage.calibration_digest is None or not files:
        return
    if lost := [file for file in files if not file.is_file()]:
        say(f"note: {lost[0]}, which this was calibrated on, is gone; overlap with the text is not checked")
    known = [read_text(file) for file in files if file.is_file()]
    refuse_overlap(known, [read_text(path) for path in texts], "calibrate on another file")
