from tests.lines import LONG, count, report


def test_lines_are_counted_by_part_in_the_order_of_imports(tmp_path):
    for path, n in (("engine/run.py", LONG), ("engine/fast.py", LONG + 1), ("errors.py", 2), ("__init__.py", 1)):
        file = tmp_path / path
        file.parent.mkdir(exist_ok=True)
        file.write_text("x\n" * n, encoding="utf-8")
    assert list(report(count(tmp_path))) == [
        "     1  __init__",
        "     2  errors",
        "   801  engine",
        "   804  in 4 modules",
        "   401  engine/fast.py: more than 400",
    ]
