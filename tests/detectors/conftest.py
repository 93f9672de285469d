"""Small OK pictures that all detectors learn from."""

import pytest

from anomalib_lite.data.images import ImageSet
from tests.detectors import small


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> ImageSet:
    """Twelve of 32 x 48 px. Read only."""
    return small.images(tmp_path_factory.mktemp("images"))
