"""Commands load each network once, see :mod:`tests.quick`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.quick import quick_commands


@pytest.fixture(scope="module", autouse=True)
def quick() -> Iterator[None]:
    with quick_commands():
        yield
