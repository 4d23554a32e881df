"""Convolutions of real networks: forward, inference, gradients."""

from __future__ import annotations

import pytest

from .conftest import Compare
from .layers import CONVS, Case, passes


@pytest.mark.parametrize("library", ["fastcnn", "torch"])
@pytest.mark.parametrize(("case", "what"), passes(CONVS), ids=str)
def test_conv(compare: Compare, case: Case, what: str, library: str) -> None:
    compare(case, what, library)


@pytest.mark.parametrize("case", [case for case, what in passes(CONVS) if what == "inference"], ids=str)
def test_conv_beside_ncnn(compare: Compare, case: Case) -> None:
    compare(case, "inference", "ncnn")
