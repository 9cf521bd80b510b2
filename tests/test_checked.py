"""The runtime checks of the tests are on: wrong types and wrong shapes are refused, in functions with arrays and without."""

import pytest
import torch
from beartype.roar import BeartypeCallHintParamViolation
from jaxtyping import TypeCheckError

from stir_core.models.cost import flops
from stir_core.models.generation import Sampling, nucleus
from stir_core.seeding import generator_for


def test_types_are_checked_where_there_is_no_array() -> None:
    with pytest.raises(BeartypeCallHintParamViolation):
        generator_for("seven", "name")  # type: ignore[arg-type]
    with pytest.raises(BeartypeCallHintParamViolation):
        flops(None, None)  # type: ignore[arg-type]


def test_shapes_are_checked_where_there_is_one() -> None:
    with pytest.raises(TypeCheckError):
        nucleus(torch.zeros(5), [0.5], Sampling(1.0))
