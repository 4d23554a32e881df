"""Matrix products from skinny to square, in the three ways that a dense layer needs them."""

from __future__ import annotations

import pytest

from .conftest import Compare
from .layers import DENSES, Case, passes


@pytest.mark.parametrize("library", ["fastcnn", "numpy"])
@pytest.mark.parametrize(("case", "what"), passes(DENSES), ids=str)
def test_matmul(compare: Compare, case: Case, what: str, library: str) -> None:
    compare(case, what, library)
