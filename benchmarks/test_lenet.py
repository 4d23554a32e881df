"""LeNet-5 as a whole: a training step, and the prediction of a single image."""

from __future__ import annotations

import pytest

from .conftest import Compare
from .layers import NETWORKS, Case, passes


@pytest.mark.parametrize("library", ["fastcnn", "torch"])
@pytest.mark.parametrize(("case", "what"), passes(NETWORKS), ids=str)
def test_lenet(compare: Compare, case: Case, what: str, library: str) -> None:
    compare(case, what, library)
