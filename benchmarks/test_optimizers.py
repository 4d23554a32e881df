"""Optimisers' steps over the filters of real networks."""

from __future__ import annotations

import pytest

from .conftest import Compare
from .layers import OPTIMIZERS, Case, passes


@pytest.mark.parametrize("library", ["fastcnn", "torch"])
@pytest.mark.parametrize(("case", "what"), passes(OPTIMIZERS), ids=str)
def test_optimizer(compare: Compare, case: Case, what: str, library: str) -> None:
    compare(case, what, library)
