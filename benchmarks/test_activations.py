"""Activations of images and softmax: forward and data gradient."""

from __future__ import annotations

import pytest

from .conftest import Compare
from .layers import ACTIVATIONS, Case, passes


@pytest.mark.parametrize("library", ["fastcnn", "torch"])
@pytest.mark.parametrize(("case", "what"), passes(ACTIVATIONS), ids=str)
def test_activation(compare: Compare, case: Case, what: str, library: str) -> None:
    compare(case, what, library)
