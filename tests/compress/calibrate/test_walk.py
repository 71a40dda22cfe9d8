"""Walking layer by layer sees exactly what the whole model sees."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM

from edgepress.compress.calibrate.walk import LayerWalk
from edgepress.compress.student.open import open_student


def test_mean_squares_equal_those_of_the_whole_model(family_dir: Path) -> None:
    student = open_student(str(family_dir))
    windows = np.random.default_rng(0).integers(4, 300, (5, 48)).astype(np.int32)
    walk = LayerWalk(student, windows)
    found = {name: values for visit in walk.layers() for name, values in visit.mean_square.items()}
    head = walk.head_mean_square()

    model = AutoModelForCausalLM.from_pretrained(family_dir, dtype=torch.float32)
    seen: dict[str, torch.Tensor] = {}
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear):
            hook = lambda _module, inputs, name=name: seen.__setitem__(f"{name}.weight", inputs[0].double())  # noqa: E731
            module.register_forward_pre_hook(hook)
    with torch.inference_mode():
        model(torch.from_numpy(windows.astype(np.int64)))
    expected = {name: values.pow(2).mean((0, 1)).numpy() for name, values in seen.items()}
    np.testing.assert_allclose(head, expected.pop("lm_head.weight"), rtol=1e-4)
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-4)


def test_windows_that_do_not_fill_the_last_batch_count_alike(llama_dir: Path) -> None:
    student = open_student(str(llama_dir))
    windows = (
        np.random.default_rng(1).integers(4, 300, (33, 64)).astype(np.int32)
    )  # 2112 tokens: one full batch and one
    whole = LayerWalk(student, windows)
    found = [visit.mean_square for visit in whole.layers()]
    parts = [LayerWalk(student, part) for part in (windows[:11], windows[11:22], windows[22:])]
    separate = [[visit.mean_square for visit in walk.layers()] for walk in parts]
    for layer, together in enumerate(found):
        for name, values in together.items():
            np.testing.assert_allclose(values, np.mean([part[layer][name] for part in separate], axis=0), rtol=1e-4)
