import pytest

from refscale.analysis import report


@pytest.fixture(scope="session")
def regular():
    return report("bert-tiny", "regular")


@pytest.fixture(scope="session")
def unit():
    return report("bert-tiny", "unit")
