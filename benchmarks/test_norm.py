"""Batch normalisation with a ReLU, of real networks: forward in training, and gradients."""

from __future__ import annotations

import pytest

from .conftest import Compare
from .layers import NORMS, Case, passes


@pytest.mark.parametrize("library", ["fastcnn", "torch"])
@pytest.mark.parametrize(("case", "what"), passes(NORMS), ids=str)
def test_norm(compare: Compare, case: Case, what: str, library: str) -> None:
    compare(case, what, library)
