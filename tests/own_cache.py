"""A cache of the module's own, so that nothing that this machine has made before takes part in a test.

Import the fixture into a test module and mark it with ``pytest.mark.usefixtures("own_cache")``.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Point EDGEPRESS_CACHE at an empty folder for all tests of a module."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGEPRESS_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
