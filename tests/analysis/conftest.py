import pytest

from refscale.analysis import record


@pytest.fixture(scope="session")
def regular():
    return record("bert-tiny", "regular")


@pytest.fixture(scope="session")
def unit():
    return record("bert-tiny", "unit")
