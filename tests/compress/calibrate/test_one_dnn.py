from typing import Any

import numpy as np
import pytest
import torch

from edgepress.compress.calibrate import one_dnn
from edgepress.compress.calibrate.one_dnn import OneDnnLinears, half_linear, linear

RNG = np.random.default_rng(0)


def drawn(*shape: int) -> torch.Tensor:
    return torch.from_numpy(RNG.standard_normal(shape).astype(np.float32))


@pytest.mark.parametrize("shape", [(7,), (5, 7), (2, 3, 7), (0, 7)])
@pytest.mark.parametrize("biased", [False, True])
def test_products_are_those_of_float64(shape: tuple[int, ...], biased: bool) -> None:
    inputs, weight, bias = drawn(*shape), drawn(4, 7), drawn(4) if biased else None
    expected = inputs.double().numpy() @ weight.double().numpy().T + (0.0 if bias is None else bias.double().numpy())
    with torch.inference_mode():
        np.testing.assert_allclose(linear(inputs, weight, bias), expected, atol=1e-5)


def test_transposed_views_are_taken_as_they_are() -> None:
    left, right = drawn(7, 5), drawn(7, 4)
    np.testing.assert_allclose(linear(left.T, right.T), left.double().numpy().T @ right.double().numpy(), atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_types_are_left_to_torch(dtype: torch.dtype) -> None:
    inputs, weight = drawn(5, 7).to(dtype), drawn(4, 7).to(dtype)
    assert torch.equal(linear(inputs, weight), torch.nn.functional.linear(inputs, weight))


def test_a_layer_gives_gradients_where_they_are_asked_for() -> None:
    layer, inputs = torch.nn.Linear(7, 4), drawn(5, 7).requires_grad_(True)
    with OneDnnLinears():
        layer(inputs).sum().backward()
    assert inputs.grad is not None
    np.testing.assert_allclose(inputs.grad, layer.weight.detach().sum(0).expand(5, 7), rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_layer_computes_in_its_own_type(dtype: torch.dtype) -> None:
    layer, inputs = torch.nn.Linear(7, 4).to(dtype), drawn(5, 7).to(dtype)
    with torch.inference_mode():
        expected = layer(inputs)
        with OneDnnLinears():
            found = layer(inputs)
    assert found.dtype == dtype
    np.testing.assert_allclose(found.float(), expected.float(), atol=1e-5)


@pytest.mark.skipif(one_dnn._OPERATOR is None, reason="this torch or processor has no such operator")
def test_a_layer_reaches_the_operator_once_it_has_no_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    operator: Any = one_dnn._OPERATOR

    def counted(*arguments: Any) -> Any:
        calls.append(1)
        return operator(*arguments)

    monkeypatch.setattr(one_dnn, "_OPERATOR", counted)
    layer, inputs = torch.nn.Linear(7, 4), drawn(5, 7)
    with OneDnnLinears():
        layer(inputs)
        assert not calls
        with torch.no_grad():
            layer(inputs)
    assert calls == [1]


@pytest.mark.parametrize("biased", [False, True])
def test_halves_lose_what_bfloat16_cannot_hold_and_the_bias_nothing(biased: bool) -> None:
    inputs, weight, bias = drawn(64, 160), drawn(96, 160), 1000 * drawn(96) if biased else None
    exact = inputs.double() @ weight.double().T
    with torch.inference_mode():
        found = half_linear(inputs, weight, bias)
    assert found.dtype == torch.float32
    added = torch.zeros(96) if bias is None else bias
    error = ((found - added).double() - exact).norm() / exact.norm()
    assert 2**-10 < error < 2**-7
    coarse = (inputs.bfloat16().double() @ weight.bfloat16().double().T).bfloat16().float()
    assert float((found - added - coarse).abs().mean()) < 1e-3


@pytest.mark.parametrize("native", [True, False])
def test_halves_are_for_processors_that_gain_by_them(native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(one_dnn, "has_native_bfloat16", lambda: native)
    layer, inputs = torch.nn.Linear(160, 96), drawn(64, 160)
    with torch.inference_mode():
        expected = {half: (half_linear if half else linear)(inputs, layer.weight, layer.bias) for half in (True, False)}
        for asked in (True, False):
            with OneDnnLinears(half=asked):
                found = layer(inputs)
            assert torch.equal(found, expected[asked and native])


def test_halves_have_no_gradients_either(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(one_dnn, "has_native_bfloat16", lambda: True)
    layer, inputs = torch.nn.Linear(160, 96), drawn(64, 160)
    with OneDnnLinears(half=True):
        assert torch.equal(layer(inputs), torch.nn.functional.linear(inputs, layer.weight, layer.bias))
