"""A directory is sufficient alone: a reader in C++, the guide, and training steps, from the written files only."""

import json
import os
import re
import shutil
import subprocess
from importlib import resources

import numpy as np
import pytest

from refscale.cli import main
from refscale.formats import FORMATS, decode, encode
from refscale.golden import FLAGS, load, store
from refscale.golden.backends.reference import Reference
from refscale.golden.guide import guide_files
from refscale.golden.kit import Session, judge
from refscale.golden.known_bugs import SEEN
from refscale.golden.schema import OPS
from refscale.golden.sizes import sample
from refscale.golden.steps import training_step

VECTORS = load()


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """The output of ``golden write``, which equals the shipped set (``test_store``)."""
    path = tmp_path_factory.mktemp("golden") / "set"
    shutil.copytree(str(store.DATA), path)
    for name, data in guide_files(json.loads((path / "manifest.json").read_text())["conventions"]).items():
        (path / name).write_bytes(data)
    return path


BUGS = {
    "ties away": ("std::nearbyint(size / spacing)", "std::floor(size / spacing + 0.5)"),
    "a term is lost": ("float(p) * float(q)", "(k ? float(p) * float(q) : 0)"),
}
PLANTED = """#include <cstdlib>
static const int planted = std::atoi(std::getenv("BUG"));
"""


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    """The reader, compiled once, with bugs that the environment variable ``BUG`` chooses by number, from 1 on."""
    compiler = shutil.which("c++") or shutil.which("g++")
    if compiler is None:
        pytest.skip("no C++ compiler")
    folder = tmp_path_factory.mktemp("reader")
    source = (resources.files("refscale.golden") / "examples/reader.cpp").read_text(encoding="utf-8")
    for number, (right, wrong) in enumerate(BUGS.values(), 1):
        assert source.count(right) == 1
        source = source.replace(right, f"(planted == {number} ? {wrong} : {right})")
    (folder / "reader.cpp").write_text(PLANTED + source, encoding="utf-8")
    flags = ["-std=c++17", "-O1", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror", "-Wno-unused"]
    subprocess.run([compiler, *flags, "-o", "reader", "reader.cpp"], cwd=folder, check=True, timeout=300)
    return folder / "reader"


@pytest.mark.parametrize("bug", ["none", *BUGS])
def test_a_reader_in_cpp_from_the_directory_alone(directory, reader, bug):
    """It passes; with a bug planted it fails."""
    env = {**os.environ, "BUG": str(["none", *BUGS].index(bug))}
    done = subprocess.run([reader, directory], capture_output=True, text=True, timeout=300, check=False, env=env)
    assert done.returncode == (0 if bug == "none" else 1), done.stdout + done.stderr
    counts = {op: int(n) for op, n in re.findall(r"(\w+): (\d+) vectors", done.stdout)}
    assert counts["cast"] > 800
    assert counts["decode"] > 40
    assert counts["matmul"] > 800


def test_the_table_of_formats_is_right(directory):
    table = {f["name"]: f for f in json.loads((directory / "formats.json").read_text())["formats"]}
    assert list(table) == list(FORMATS)
    e4m3, bf16 = table["float8_e4m3fn"], table["bfloat16"]
    assert (e4m3["bias"], e4m3["max"], e4m3["nan_code"], e4m3["infinity_code"]) == (7, 448.0, 0x7F, None)
    assert (bf16["bias"], bf16["nan_code"], bf16["infinity_code"]) == (127, 0x7FC0, 0x7F80)
    assert (table["float4_e2m1fn"]["nan_code"], table["float4_e2m1fn"]["max"]) == (None, 6.0)
    for name, f in table.items():
        for key in ("max", "min_normal", "min_subnormal"):
            assert decode(encode([f[key]], name), name) == [np.float32(f[key])]


def test_the_guide_explains_every_op_flag_and_convention(directory):
    text = (directory / "README.md").read_text(encoding="utf-8")
    manifest = json.loads((directory / "manifest.json").read_text())
    for name in (*OPS, *FLAGS, *manifest["conventions"]):
        assert f"`{name}`" in text
    for words in ("row-major", "ties to even", "rceil", "(K + 1)·u", "random_bits", "low bits of a byte", "truncated:"):
        assert words in text
    for name in ("manifest.schema.json", "set.schema.json"):
        assert json.loads((directory / name).read_text())["$schema"]


# --- training steps ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["ffn/unit/fp16", "ffn/regular/fp8", "attention/unit/fp8", "attention/regular/fp32"])
def test_a_training_step_is_computed_from_its_vector(where):
    vector = VECTORS[f"model/{where}/whole"]
    assert judge(Reference(), vector).verdict == "same bits"
    assert {"gradient", "x"} <= set(vector.inputs)
    calls = vector.attributes["calls"]
    known = set(vector.inputs)
    for call in calls:
        assert set(call["inputs"]) <= known
        known.add(call["output"])


def test_a_training_step_by_hand():
    """y = 2·(x + x·w)…: two uses of x, whose gradients are added; by hand for x = 3, w = 5, dy = 7, in float16."""
    calls = [
        {"op": "multiply", "attributes": {}, "alpha": 1.0, "beta": [1.0, 0.5], "inputs": ["x", "w"], "output": "0.p"},
        {"op": "add", "attributes": {}, "alpha": 2.0, "beta": [1.0, 1.0], "inputs": ["x", "0.p"], "output": "1.y"},
    ]
    arrays = {"x": np.float32([3]), "w": np.float32([5]), "gradient": np.float32([7])}
    casts = {"store": "float16", "operand": None, "operand_gradient": None}
    found = training_step(arrays, calls=calls, **casts)
    assert {name: x.tolist() for name, x in found.items()} == {
        "value 0.p": [15],
        "gradient 0.p": [7],
        "value 1.y": [36],
        "gradient 1.y": [7],
        "gradient x": [7 + 35],
        "gradient w": [0.5 * 7 * 3],
    }
    large = training_step(arrays | {"gradient": np.float32([4096])}, calls=calls, **casts)
    assert large["gradient x"].tolist() == [4096 + 5 * 4096]
    tie = {"x": np.float32([1]), "w": np.float32([2.0**-12]), "gradient": np.float32([1])}
    assert training_step(tie, calls=calls, **casts)["gradient x"].tolist() == [1]  # 1 + 2^-12 in float16


# --- looking at vectors -----------------------------------------------------------------------------------------------


def test_vectors_are_listed_shown_and_explained(capsys):
    assert main(["golden", "list", "cast/float16/*", "--flag", "tie-even"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "cast/float16/nearest_even/saturate/float32/ties  tie-even tie-zero" in lines
    assert all("tie-even" in line for line in lines)
    assert main(["golden", "show", "cast/float8_e4m3fn/nearest_even/saturate/float32/ties"]) == 0
    told = capsys.readouterr().out
    assert '  rounding = "nearest_even"' in told
    assert "  output y: float8_e4m3fn [236]  0x08 (0.015625), 0x88 (-0.015625), " in told
    assert main(["golden", "explain", "scale-threshold"]) == 0
    told = capsys.readouterr().out
    assert told.startswith(f"scale-threshold: {FLAGS['scale-threshold']}\n  seen: torchao")
    assert "block-scale, such as block-scale/" in told
    assert main(["golden", "explain"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(FLAGS)
    assert main(["golden", "show", "cast/none"]) == 2
    assert main(["golden", "explain", "tied"]) == 2
    assert "expected one of tie-even" in capsys.readouterr().err
    assert set(SEEN) <= set(FLAGS)


def test_generated_vectors_of_several_seeds(capsys):
    wanted = "sizes/cast/*"
    two = sample(3, repeat=2, only=lambda id: id.startswith("sizes/cast/"))
    assert len({v.id for v in two}) == len(two)
    assert {v.id.split("/")[3] for v in two} == {"seed-3", "seed-4"}
    assert main(["conform", "reference", "--only", wanted, "--seed", "3", "--repeat", "2"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith(f"{len(two)} vectors: {len(two)} same bits")
    assert main(["conform", "reference", "--only", wanted, "--repeat", "0"]) == 2
    assert "--repeat 0: expected at least 1" in capsys.readouterr().err
    assert Session(Reference()).judge(two[0]).verdict == "same bits"
