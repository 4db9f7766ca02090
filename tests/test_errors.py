import pytest

from refscale.errors import counted


@pytest.mark.parametrize(("n", "said"), [(0, "0 steps"), (1, "1 step"), (2, "2 steps")])
def test_messages_count_right(n, said):
    assert counted(n, "step") == said
    assert counted(n, "entry", "entries") == said.replace("steps", "entries").replace("step", "entry")
