"""Rendered panels that several tests look at."""

from __future__ import annotations

import pytest

from anomalib_lite.rendering.product import render_template
from anomalib_lite.rendering.sheet import SheetConfig, render_sheet


@pytest.fixture(scope="session")
def sheet_config():
    return SheetConfig(width=880, height=660)


@pytest.fixture(scope="session")
def template(sheet_config):
    return render_template(sheet_config.product_size)


@pytest.fixture(scope="session")
def sheets(sheet_config):
    return [render_sheet(sheet_config, seed) for seed in range(3)]
