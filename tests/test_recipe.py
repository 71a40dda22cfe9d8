"""Recipes: the shipped ones are whole, and every mistake is one line that names its place and what exists."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

import edgepress.profiles.recipes as shipped
from edgepress.artifact.formats import FORMATS
from edgepress.compress.quantize.config import QuantizeStep
from edgepress.errors import InputError
from edgepress.recipe import STEPS, Bench, Evaluate, Recipe, Samples, load_recipe, parse_recipe
from edgepress.recipe_order import step_name

FILES = sorted(Path(shipped.__file__).parent.rglob("*.y*ml"))


def test_the_shipped_recipes_are_the_files_there() -> None:
    assert len(FILES) > 0
    assert [file.stem for file in FILES] == list(shipped.RECIPE_NAMES)
    assert {"4bit", "8bit", "demo"} <= set(shipped.RECIPE_NAMES)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_shipped_recipe_parses_and_has_known_steps_and_formats(file: Path) -> None:
    recipe = load_recipe(file.stem)
    assert recipe == load_recipe(str(file))
    document = yaml.safe_load(file.read_text(encoding="utf-8"))
    known = [step_name(step) for step in STEPS]
    assert document["compress"]
    for step in document["compress"]:
        assert step["step"] in known
    formats = (recipe.quantize.format, recipe.quantize.embedding, *recipe.quantize.formats.values())
    assert set(formats) - {None} <= FORMATS.keys()
    held = {"gguf", "onnx"} if "int8" not in formats else {"onnx"}
    assert set(recipe.export) == held


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_recipe_survives_being_written_out_with_every_default(file: Path) -> None:
    recipe = load_recipe(file.stem)
    assert parse_recipe(yaml.safe_dump(msgspec.to_builtins(recipe)), "again") == recipe


def test_an_empty_mapping_is_a_plain_copy_with_every_default() -> None:
    recipe = parse_recipe("{}", "r.yaml")
    assert recipe == Recipe()
    assert recipe.quantize == QuantizeStep(solver="nearest", format="f32")
    assert (recipe.export, recipe.baseline) == (("gguf", "onnx"), True)


def test_measurements_may_be_switched_off() -> None:
    recipe = parse_recipe("{evaluate: null, bench: null, samples: ~, baseline: no}", "r.yaml")
    assert recipe.evaluate is None
    assert recipe.bench is None
    assert recipe.samples is None
    assert not recipe.baseline


def test_every_field_can_be_given() -> None:
    text = """
    calibration: {self: false, files: [a.txt, b.txt], samples: 4, length: 16, seed: 7}
    compress:
      - {step: quantize, solver: nearest, format: q4_K, embedding: q8_0, formats: {"*.ffn_down": q6_K}, fallback: q5_0}
    export: [onnx]
    evaluate: {files: [c.txt], tokens: 64, context: 32}
    bench: {prompt: 8, generate: 4, depth: [0, 16], repetitions: 2, threads: 1}
    samples: {prompts: [hello], tokens: 5}
    baseline: false
    compare: [Q4_0, IQ4_NL]
    """
    recipe = parse_recipe(text, "r.yaml")
    assert (recipe.calibration.self_generated, recipe.calibration.files) == (False, ("a.txt", "b.txt"))
    assert (recipe.calibration.samples, recipe.calibration.length, recipe.calibration.seed) == (4, 16, 7)
    formats = {"*.ffn_down": "q6_K"}
    assert recipe.quantize == QuantizeStep(
        solver="nearest", format="q4_K", embedding="q8_0", formats=formats, fallback="q5_0"
    )
    assert recipe.export == ("onnx",)
    assert recipe.evaluate == Evaluate(files=("c.txt",), tokens=64, context=32)
    assert recipe.bench == Bench(prompt=8, generate=4, depth=(0, 16), repetitions=2, threads=1)
    assert recipe.samples == Samples(prompts=("hello",), tokens=5)
    assert recipe.compare == ("Q4_0", "IQ4_NL")


_STEP = "compress: [{step: quantize}, {step: quantize, %s}]"

MISTAKES: dict[str, tuple[str, str]] = {
    "empty file": ("", "a recipe is a mapping with calibration, compress, export"),
    "a list": ("- step: quantize", "a recipe is a mapping"),
    "a comment alone": ("# nothing yet", "a recipe is a mapping"),
    "not YAML": ("compress: [{step: quantize}", "not YAML: .*line 1"),
    "a tab": ("compress:\n\t- {step: quantize}", "not YAML: .*line 2"),
    "a binary file": ("\x00\x01", "not YAML"),
    "a Python object": ("!!python/object/apply:os.getcwd []", "not YAML: could not determine a constructor"),
    "an impossible date": ("export: 2020-13-45", "not YAML: month must be in 1..12"),
    "endless nesting": ("[" * 3000, "not YAML: maximum recursion"),
    "an endless number": (f"baseline: {'9' * 5000}", "not YAML: "),
    "a section misspelt": (
        "evalute: {}",
        "'evalute' at the top; fields there: calibration, compress, export, tensorrt, evaluate",
    ),
    "a field of calibration misspelt": (
        "calibration: {sample: 3}",
        "'sample' at calibration; fields there: self, files, samples, length, seed",
    ),
    "a field of a step misspelt": (
        _STEP % "fromat: q4_0",
        r"'fromat' at compress\[1\]; fields there: solver, format, embedding, formats, fallback",
    ),
    "a field of adapters misspelt": (
        "compress: [{step: prune_layers, drop: 1}, {step: distill, tokens: 9, lora: {ranks: 4}}]",
        r"'ranks' at compress\[1\]\.lora; fields there: rank, alpha",
    ),
    "a choice in a part of a step misspelt": (
        "compress: [{step: prune_layers, drop: 1}, {step: distill, tokens: 9, loss: {hidden_distance: l1}}]",
        r"'l1' at compress\[1\]\.loss\.hidden_distance is none of the choices: cosine, mse",
    ),
    "a field of evaluate misspelt": (
        "evaluate: {token: 3}",
        "'token' at evaluate; fields there: files, tokens, context",
    ),
    "a field of bench misspelt": ("bench: {reps: 3}", "'reps' at bench; fields there: prompt, generate, depth, repet"),
    "a field of samples misspelt": ("samples: {prompt: x}", "'prompt' at samples; fields there: prompts, tokens"),
    "a number as a field": ("bench: {3: 4}", "bench"),
    "an unknown step": (
        "compress: [{step: prune_experts}]",
        r"compress\[0\]: unknown step 'prune_experts'; steps: trim_vocabulary, prune_ffn, prune_heads, prune_layers, "
        "prune_hidden, distill, sparsify, quantize",
    ),
    "a step without a name": (
        "compress: [{format: q4_0}]",
        r"compress\[0\] must be a mapping with 'step'; steps: trim_vocabulary",
    ),
    "a step as text": ("compress: [quantize]", r"compress\[0\] must be a mapping with 'step'"),
    "one step without a list": ("compress: {step: quantize}", "compress must be a list of steps, got dict"),
    "two quantize steps": (_STEP % "format: q4_0", "compress has 2 quantize steps; one is the most"),
    "an unknown solver": (
        _STEP % "solver: gptq",
        r"'gptq' at compress\[1\]\.solver is none of the choices: gptaq, nearest, scale_search",
    ),
    "choices without a budget": ("compress: [{step: quantize, choices: [q4_0]}]", "choices are for a budget"),
    "text to train on without training": ("compress: [{step: quantize, qad_samples: 9}]", "add qad_tokens"),
    "a comparison with nothing": ("{export: [], compare: [Q4_0]}", "compare .* export names none"),
    "limits of engines that nobody asked for": ("tensorrt: {batch: 1}", "export does not name tensorrt"),
    "an unknown number of profiles": (
        "{export: [tensorrt], tensorrt: {profiles: three}}",
        r"'three' at tensorrt\.profiles is none of the choices: one, two",
    ),
    "an unknown target": (
        "export: [gguf, coreml]",
        r"'coreml' at export\[1\] is none of the choices: gguf, onnx, tensorrt",
    ),
    "an unknown mixture": (
        "compare: [Q4_0, q4_k_m]",
        r"'q4_k_m' at compare\[1\] is none of the choices: IQ3_M, .*Q4_0, .*Q8_0",
    ),
    "a mixture without a list": ("compare: Q4_0", "Expected `array`, got `str` - at `compare`"),
    "a target without a list": ("export: gguf", "Expected `array`, got `str` - at `export`"),
    "text for a number": ("calibration: {samples: many}", "Expected `int`, got `str` - at `calibration.samples`"),
    "a fraction for a number": ("calibration: {seed: 1.5}", "Expected `int`, got `float` - at `calibration.seed`"),
    "a negative seed": ("calibration: {seed: -1}", "Expected `int` >= 0 - at `calibration.seed`"),
    "a seed beyond 64 bits": (f"calibration: {{seed: {10**30}}}", "Expected `int` <= .*calibration.seed"),
    "no samples": ("calibration: {samples: 0}", "Expected `int` >= 1 - at `calibration.samples`"),
    "windows too short": ("calibration: {length: 2}", "Expected `int` >= 8 - at `calibration.length`"),
    "truth for a number": ("bench: {prompt: true}", "Expected `int`, got `bool` - at `bench.prompt`"),
    "text for truth": ("baseline: maybe", "Expected `bool`, got `str` - at `baseline`"),
    "no depth": ("bench: {depth: []}", "Expected `array` of length >= 1 - at `bench.depth`"),
    "a negative depth": ("bench: {depth: [0, -1]}", r"Expected `int` >= 0 - at `bench.depth\[1\]`"),
    "no prompts": ("samples: {prompts: []}", "Expected `array` of length >= 1 - at `samples.prompts`"),
    "a number for a format": (_STEP % "format: 4", r"Expected `str`, got `int` - at `compress\[1\]\.format`"),
    "a list of formats": (_STEP % "formats: [q4_0]", r"Expected `object`, got `array` - at `compress\[1\]\.formats`"),
    "an empty calibration": ("calibration:", "Expected `object`, got `null` - at `calibration`"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_with_its_place_and_what_exists(mistake: str) -> None:
    text, message = MISTAKES[mistake]
    with pytest.raises(InputError, match=message) as raised:
        parse_recipe(text, "r.yaml")
    assert str(raised.value).startswith("r.yaml: ")
    assert "\n" not in str(raised.value)


def test_every_choice_of_every_step_is_listed_when_a_wrong_one_is_made() -> None:
    """The choices come from the types: no list to keep in step."""
    found = 0
    for step in STEPS:
        described: Any = msgspec.inspect.type_info(step)
        for field in described.fields:
            if isinstance(field.type, msgspec.inspect.LiteralType):
                text = f"compress: [{{step: {step_name(step)}, {field.encode_name}: nonsense}}]"
                listed = ", ".join(map(str, field.type.values))
                with pytest.raises(InputError, match=f"{field.encode_name} is none of the choices: {listed}"):
                    parse_recipe(text, "r.yaml")
                found += 1
    assert found > 0


def test_a_name_that_is_none_is_answered_with_the_shipped_ones() -> None:
    with pytest.raises(
        InputError, match=r"no recipe '5bit'; shipped recipes: 4bit, 8bit, demo, w8a8, or give a \.yaml file"
    ):
        load_recipe("5bit")


def test_a_file_that_is_not_there_or_no_text_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"absent\.yaml: no such recipe file"):
        load_recipe(str(tmp_path / "absent.yaml"))
    (tmp_path / "latin.yaml").write_bytes(b"export: [gguf] # \xe9")
    with pytest.raises(InputError, match=r"latin\.yaml: cannot be read"):
        load_recipe(str(tmp_path / "latin.yaml"))
    (tmp_path / "folder.yaml").mkdir()
    with pytest.raises(InputError, match=r"folder\.yaml: no such recipe file"):
        load_recipe(str(tmp_path / "folder.yaml"))


def test_a_file_of_any_name_is_read_and_its_mistakes_carry_the_name(tmp_path: Path) -> None:
    (tmp_path / "recipe").write_text("export: [onnx]", encoding="utf-8")
    assert load_recipe(str(tmp_path / "recipe")).export == ("onnx",)
    (tmp_path / "recipe").write_text("expert: [onnx]", encoding="utf-8")
    with pytest.raises(InputError, match=f"{tmp_path}/recipe: unknown field 'expert'"):
        load_recipe(str(tmp_path / "recipe"))
