"""Pooling layers of real networks: forward and data gradient."""

from __future__ import annotations

import pytest

from .conftest import Compare
from .layers import POOLS, Case, passes


@pytest.mark.parametrize("library", ["fastcnn", "torch"])
@pytest.mark.parametrize(("case", "what"), passes(POOLS), ids=str)
def test_pool(compare: Compare, case: Case, what: str, library: str) -> None:
    compare(case, what, library)
