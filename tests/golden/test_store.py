"""The set on disk: its form, its hashes, its determinism, and what becomes of a damaged one."""

import hashlib
import json
import os
import re
import shutil
from dataclasses import replace
from functools import partial
from importlib import resources
from unittest.mock import patch

import numpy as np
import pytest

from refscale.cli import main
from refscale.errors import ArgumentError, GoldenError
from refscale.golden import FAMILIES, Digest, Vector, check, complete, generate, load, products, store, write
from refscale.golden.attributes import ATTRIBUTES, INPUTS
from refscale.golden.guide import GUIDE
from refscale.golden.schema import OPS
from tests.machines import MACHINES, output

LIMIT = 14 * 10**6


@pytest.fixture(scope="module")
def generated():
    """The vectors of every family."""
    return {name: list(family.generate()) for name, family in FAMILIES.items()}


@pytest.fixture(scope="module")
def written(generated, tmp_path_factory):
    """A set made of them."""
    return written_to(tmp_path_factory.mktemp("golden") / "set", generated)


@pytest.fixture(scope="module")
def small(generated, tmp_path_factory):
    """A set of every 16th vector of each family."""
    few = {name: vectors[::16] for name, vectors in generated.items()}
    return written_to(tmp_path_factory.mktemp("golden") / "small", few)


def written_to(path, vectors):
    families = {name: replace(family, generate=partial(iter, vectors[name])) for name, family in FAMILIES.items()}
    with patch.object(store, "FAMILIES", families):
        write(path)
    return path


@pytest.fixture
def copy(small, tmp_path, monkeypatch):
    """A set to damage; what would be generated is what was."""
    monkeypatch.setattr(store, "render", lambda full=False: files(small))
    return shutil.copytree(small, tmp_path / "copy")


def files(root):
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def test_the_shipped_set_is_what_is_generated(written):
    """A written set also has the guide, which of the shipped set is the package."""
    found = files(written)
    assert {name for name in found if name in GUIDE} == set(GUIDE)
    assert {name: data for name, data in found.items() if name not in GUIDE} == files(store.DATA)


def test_the_shipped_set_is_small():
    assert sum(map(len, files(store.DATA).values())) < LIMIT


PRODUCTS = ("matmul", "block-matmul", "ops")
"""Sums, which processors compute in other orders; functions are tried in ``tests/exact``, models are made of these."""


def digest(vectors):
    parts = (x.sha256 for v in vectors for arrays in (v.inputs, v.outputs) for x in arrays.values())
    return hashlib.sha256("".join(parts).encode()).hexdigest()


def test_products_are_the_same_on_a_baseline_processor():
    code = "from tests.golden.test_store import PRODUCTS, digest, generate; print(digest(generate(PRODUCTS)))"
    assert output(code, "baseline") == digest(v for v in load().values() if v.family in PRODUCTS)


@pytest.mark.slow
@pytest.mark.parametrize("machine", [m for m in MACHINES if m != "as it is"])
def test_the_same_bytes_on_every_machine(machine):
    assert output("from refscale.golden import check; print(check())", machine) == str(len(load()))


def test_loading_gives_what_was_generated(generated, written):
    loaded = load(written)
    made = [v for vectors in generated.values() for v in vectors]
    assert list(loaded) == [v.id for v in made]
    for v in made:
        found = loaded[v.id]
        assert (found.op, found.attributes, found.flags, found.comment, found.bulk) == (
            v.op,
            v.attributes,
            v.flags,
            v.comment,
            v.bulk,
        )
        for ours, theirs in ((v.inputs, found.inputs), (v.outputs, found.outputs)):
            assert list(ours) == list(theirs)
            for name, x in ours.items():
                assert (x.format, x.shape, x.sha256) == (theirs[name].format, theirs[name].shape, theirs[name].sha256)


@pytest.mark.slow
def test_a_search_of_every_draw_finds_the_same_operands(monkeypatch):
    loaded = load()
    monkeypatch.setattr(products, "_HITS", {})
    for v in generate(["matmul"]):
        for ours, theirs in ((v.inputs, loaded[v.id].inputs), (v.outputs, loaded[v.id].outputs)):
            assert [x.sha256 for x in ours.values()] == [x.sha256 for x in theirs.values()]


def test_attributes_are_what_json_can_hold():
    given = {"axes": (0, (1,)), "factor": np.float64(0.5), "more": {"a": None, "b": True}}
    found = Vector("a", "op", given, {}, {}).attributes
    assert found == json.loads(json.dumps(given)) == {"axes": [0, [1]], "factor": 0.5, "more": {"a": None, "b": True}}
    assert type(found["factor"]) is float
    for wrong in (float("nan"), float("inf"), {1: 2}, np.int64(1), b"x"):
        with pytest.raises(ArgumentError, match=r"^golden vector 'a': an attribute is .*, expected a value that JSON"):
            Vector("a", "op", {"x": [wrong]}, {}, {})


def test_bulk_vectors_keep_hashes_and_are_made_anew(written):
    bulk = [v for v in load(written).values() if v.bulk]
    assert any(isinstance(x, Digest) for v in bulk for x in v.outputs.values())
    whole = complete(bulk[0])
    assert [x.sha256 for x in whole.outputs.values()] == [x.sha256 for x in bulk[0].outputs.values()]


def test_samples_are_every_so_many_elements(generated, written):
    manifest = json.loads((written / "unary/manifest.json").read_text(encoding="utf-8"))
    entry, vector = next(
        (manifest["arrays"][v["outputs"]["y"]], v)
        for v in manifest["vectors"]
        if "sample" in manifest["arrays"][v["outputs"]["y"]]
    )
    sample = entry["sample"]
    kept = np.load(written / "unary" / sample["file"], allow_pickle=False)
    (whole,) = (v.outputs["y"].codes for v in generated["unary"] if v.id == vector["id"])
    part = kept[sample["offset"] : sample["offset"] + sample["count"]]
    assert part.tolist() == whole[:: sample["step"]].tolist()


# --- the published schema --------------------------------------------------------------------------------------------


def violations(x, schema, where="$"):
    """What of the JSON Schema an instance breaks; the keywords that the manifest's schema uses."""
    found = []
    kinds = {"object": dict, "array": list, "string": str, "integer": int, "boolean": bool}
    kinds |= {"number": (int, float), "null": type(None)}
    if "type" in schema and not isinstance(x, kinds[schema["type"]]):
        return [f"{where}: no {schema['type']}"]
    if "const" in schema and x != schema["const"]:
        found.append(f"{where}: {x!r}")
    if "enum" in schema and x not in schema["enum"]:
        found.append(f"{where}: {x!r}")
    if "pattern" in schema and not re.search(schema["pattern"], x):
        found.append(f"{where}: {x!r}")
    if len(x) < max(schema.get("minItems", 0), schema.get("minLength", 0)) if isinstance(x, str | list) else False:
        found.append(f"{where}: {x!r}")
    if "minimum" in schema and x < schema["minimum"]:
        found.append(f"{where}: {x!r}")
    if "oneOf" in schema and sum(not violations(x, {**s}, where) for s in schema["oneOf"]) != 1:
        found.append(f"{where}: not exactly one")
    if isinstance(x, dict):
        found += [f"{where}: no {k}" for k in schema.get("required", []) if k not in x]
        known, rest = schema.get("properties", {}), schema.get("additionalProperties", True)
        for k, v in x.items():
            if k in known:
                found += violations(v, known[k], f"{where}.{k}")
            elif rest is False:
                found.append(f"{where}: unknown {k}")
            elif isinstance(rest, dict):
                found += violations(v, rest, f"{where}.{k}")
    if isinstance(x, list):
        found += [e for i, v in enumerate(x) for e in violations(v, schema.get("items", {}), f"{where}[{i}]")]
    return found


def schema(name="manifest.schema.json"):
    return json.loads(resources.files("refscale.golden").joinpath(name).read_text(encoding="utf-8"))


def test_the_top_manifest_follows_its_schema():
    manifest = json.loads((store.DATA / "manifest.json").read_text(encoding="utf-8"))
    assert violations(manifest, schema("set.schema.json")) == []
    for change in (lambda m: m.pop("files"), lambda m: m.update(schema=2), lambda m: m["files"].update(x="0")):
        wrong = json.loads(json.dumps(manifest))
        change(wrong)
        assert violations(wrong, schema("set.schema.json"))


@pytest.mark.parametrize("family", FAMILIES)
def test_manifests_follow_the_schema(family):
    manifest = json.loads((store.DATA / family / "manifest.json").read_text(encoding="utf-8"))
    assert violations(manifest, schema()) == []


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.pop("set"),
        lambda m: m.update(schema=2),
        lambda m: m["arrays"][0].pop("sha256"),
        lambda m: m["arrays"][0].update(shape=[-1]),
        lambda m: m["vectors"][0].update(op="dance"),
        lambda m: m["vectors"][0].update(more=1),
        lambda m: m["vectors"][0]["inputs"].update(x="y"),
    ],
)
def test_the_schema_rejects_other_manifests(change):
    manifest = json.loads((store.DATA / "decode/manifest.json").read_text(encoding="utf-8"))
    change(manifest)
    assert violations(manifest, schema())


# --- damaged sets ----------------------------------------------------------------------------------------------------


def flip(path, place):
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


def edit(path, change):
    document = json.loads(path.read_text(encoding="utf-8"))
    change(document)
    path.write_text(json.dumps(document), encoding="utf-8")


DAMAGES = {
    "a flipped bit": (lambda r: flip(r / "cast/uint8.npy", 500), "cast/uint8.npy has SHA-256"),
    "a truncated file": (lambda r: (r / "ops/uint16.npy").write_bytes(b"\x93NUMPY"), "ops/uint16.npy has SHA-256"),
    "an edited manifest": (lambda r: flip(r / "model/manifest.json", 3000), "model/manifest.json has SHA-256"),
    "a missing file": (lambda r: (r / "unary/uint16.npy").unlink(), "unary/uint16.npy is missing"),
    "no manifest": (lambda r: (r / "manifest.json").unlink(), "manifest.json is missing"),
    "half a manifest": (lambda r: (r / "manifest.json").write_text("{", encoding="utf-8"), "not valid JSON"),
    "a list": (
        lambda r: (r / "manifest.json").write_text("[]", encoding="utf-8"),
        "contains a list, expected an object",
    ),
    "a future schema": (lambda r: edit(r / "manifest.json", lambda m: m.update(schema=2)), "schema version 2"),
    "no families": (lambda r: edit(r / "manifest.json", lambda m: m.pop("families")), "no dict 'families'"),
    "a path outside": (
        lambda r: edit(r / "manifest.json", lambda m: m["files"].update({"../../x": "0"})),
        "../../x is missing",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_set_is_named(copy, damage, capsys):
    do, words = DAMAGES[damage]
    do(copy)
    for command in (load, check):
        with pytest.raises(GoldenError, match=re.escape(words)):
            command(copy)
    assert main(["golden", "check", str(copy)]) == 2
    assert words in capsys.readouterr().err


def rehash(root):
    """Make a set consistent with an edit."""
    import hashlib

    def change(m):
        m["files"] = {n: hashlib.sha256((root / n).read_bytes()).hexdigest() for n in m["files"]}

    edit(root / "manifest.json", change)


def test_an_array_that_is_edited_with_its_file_hash_is_found(copy):
    flip(copy / "cast/uint8.npy", 5000)
    rehash(copy)
    with pytest.raises(GoldenError, match="another SHA-256 than its entry"):
        load(copy)


def test_a_consistent_set_that_is_not_generated_is_found_by_check(copy, small):
    edit(copy / "decode/manifest.json", lambda m: m["vectors"][0].update(comment="mine"))
    rehash(copy)
    assert len(load(copy)) == len(load(small))
    with pytest.raises(GoldenError, match="not what this version of refscale generates"):
        check(copy)


def test_another_version_and_extra_files_are_found_by_check(copy, small, tmp_path):
    (copy / "cast/uint8.npy").rename(tmp_path / "elsewhere")  # some installers make links to their cache
    (copy / "cast/uint8.npy").symlink_to(tmp_path / "elsewhere")
    assert check(copy) == len(load(small))
    (copy / "notes.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(GoldenError, match=r"belong to no set: notes\.txt"):
        check(copy)
    edit(copy / "manifest.json", lambda m: m.update(set="9.0.0"))
    with pytest.raises(GoldenError, match=f"set 9.0.0, but this version of refscale generates {store.SET}"):
        check(copy)


def test_a_manifest_of_another_form_is_named(copy):
    edit(copy / "decode/manifest.json", lambda m: m["vectors"][0].pop("op"))
    rehash(copy)
    with pytest.raises(GoldenError, match="has op None, expected a str"):
        load(copy)


def array(change, family="cast"):
    """Damage to the first array of a family, with hashes made right."""
    return f"{family}/manifest.json", lambda m: change(m["arrays"][0])


def vector(change, family="cast"):
    return f"{family}/manifest.json", lambda m: change(m["vectors"][0])


CRAFTED = {
    "a path outside": (array(lambda a: a.update(file="../../../etc/passwd")), "manifest.json does not list"),
    "an absolute path": (array(lambda a: a.update(file="/etc/passwd")), "manifest.json does not list"),
    "a family outside": (("manifest.json", lambda m: m["families"].update({"..": {}})), "lists no ../manifest.json"),
    "an id twice": (
        ("cast/manifest.json", lambda m: m["vectors"].append(m["vectors"][0])),
        "two vectors have the id 'cast/",
    ),
    "an id of another family": (
        vector(lambda v: v.update(id=next(iter(load()))), "decode"),
        "two vectors have the id 'cast/",
    ),
    "a huge shape": (array(lambda a: a.update(shape=[10**18, 10**18])), "ends before element 1000000000"),
    "a negative shape": (array(lambda a: a.update(shape=[-1, 4])), "ends before element"),
    "two negative lengths": (array(lambda a: a.update(shape=[-1, -4])), "is not of schema 1"),
    "a shape of text": (array(lambda a: a.update(shape="9")), "is not of schema 1"),
    "a negative offset": (array(lambda a: a.update(offset=-8)), "ends before element"),
    "no number": (array(lambda a: a.update(offset=float("nan"))), "arrays[0].offset is nan"),
    "an array without a file": (array(lambda a: a.pop("file")), "has arrays without a file, expected a bulk vector"),
    "an op that is none": (vector(lambda v: v.update(op="launch")), "has op 'launch', expected one of cast"),
    "an attribute that is no number": (vector(lambda v: v["attributes"].update(x=float("nan"))), "attributes.x is nan"),
    "inputs of a list": (vector(lambda v: v.update(inputs=[0])), "has inputs [0], expected a dict"),
    "an id that is a number": (vector(lambda v: v.update(id=7)), "a vector with id 7 has id 7, expected a str"),
    "attributes of a list": (vector(lambda v: v.update(attributes=["x"])), "has attributes ['x'], expected a dict"),
    "an attribute that is missing": (
        vector(lambda v: v["attributes"].pop("rounding")),
        "has no attribute rounding, expected a rounding",
    ),
    "an attribute of another type": (
        vector(lambda v: v["attributes"].update(format=3)),
        "has format 3, expected a name of a format",
    ),
    "a rounding that is none": (
        vector(lambda v: v["attributes"].update(rounding="sideways")),
        "has rounding 'sideways', expected a rounding",
    ),
    "a block of no length": (
        vector(lambda v: v["attributes"].update(block=[0]), "block-scale"),
        "has block [0], expected a list of lengths",
    ),
    "an input that is missing": (vector(lambda v: v.update(inputs={})), "has no input x"),
    "no outputs": (vector(lambda v: v.update(outputs={})), "has no outputs, or flags that are not strings"),
    "an escape code in a comment": (vector(lambda v: v.update(comment="\x1b[2J")), "with control characters"),
    "a flag that is a number": (vector(lambda v: v.update(flags=[3])), "has no outputs, or flags that are not strings"),
    "an escape code in an id": (
        vector(lambda v: v.update(id="\x1b[2J", op="x")),
        "\\x1b[2J is not an id of at most 300",
    ),
    "an array of no table": (vector(lambda v: v.update(inputs={"x": 10**9})), "is not of schema 1"),
    "no vectors": (
        ("cast/manifest.json", lambda m: m.update(vectors={})),
        "cast/manifest.json has no vectors, expected",
    ),
    "no arrays": (("cast/manifest.json", lambda m: m.update(arrays=[])), "cast/manifest.json has no arrays, expected"),
    "an unknown format": (array(lambda a: a.update(format="float7")), "float7"),
}


@pytest.mark.parametrize("name", CRAFTED)
def test_a_set_whose_hashes_are_right_is_still_not_trusted(copy, name):
    (where, change), words = CRAFTED[name]
    edit(copy / where, change)
    rehash(copy)
    with pytest.raises(GoldenError, match=re.escape(words)):
        load(copy)


def header(text):
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (header("{'descr': '|u1', 'fortran_order': False, 'shape': (1000000000000,), }\n"), "and 0 bytes follow"),
        (header("{'descr': '|u1', 'fortran_order': False, 'shape': (-1,), }\n"), "and 0 bytes follow"),
        (header("{'descr': '|O', 'fortran_order': False, 'shape': (1,), }\n") + b"x" * 8, "is no .npy file"),
        (header("{'descr': '|u1', 'fortran_order': False, 'shape': (1, 1), }\n") + b"x", "expected integers"),
        (header("(" * 9000), "is no .npy file"),
        (header("1" * 60000), "is no .npy file"),
        (b"\x93NUMPY\x02\x00\xff\xff\xff\xff", "is no .npy file"),
        (b"", "is no .npy file"),
    ],
)
def test_headers_that_promise_what_is_not_there_are_refused_before_memory_is(copy, data, words):
    (copy / "cast/uint8.npy").write_bytes(data)
    rehash(copy)
    with pytest.raises(GoldenError, match=re.escape(words)):
        load(copy)


def test_json_nested_without_end_and_files_that_are_none_are_named(copy):
    good = (copy / "manifest.json").read_bytes()
    (copy / "manifest.json").write_text("[" * 200_000, encoding="utf-8")
    with pytest.raises(GoldenError, match=r"manifest\.json: objects or arrays are nested more than 64 deep"):
        load(copy)
    (copy / "manifest.json").write_bytes(good)
    (copy / "cast/manifest.json").write_text("[" * 200_000, encoding="utf-8")
    rehash(copy)
    with pytest.raises(GoldenError, match=r"cast/manifest\.json: objects or arrays are nested more than 64 deep"):
        load(copy)
    (copy / "cast/manifest.json").unlink()
    os.mkfifo(copy / "cast/manifest.json")
    with pytest.raises(GoldenError, match="is missing"):
        load(copy)


def test_a_bulk_vector_that_nobody_makes_is_named(copy):
    def rename(m):
        next(v for v in m["vectors"] if v.get("bulk")).update(id="unary/mine")

    edit(copy / "unary/manifest.json", rename)
    rehash(copy)
    with pytest.raises(GoldenError, match="no bulk vector of that id"):
        complete(load(copy)["unary/mine"])


# --- writing ---------------------------------------------------------------------------------------------------------


def test_writing_replaces_a_set_and_nothing_else(copy, small, tmp_path, capsys):
    flip(copy / "cast/uint8.npy", 500)
    assert main(["golden", "write", str(copy)]) == 0
    assert files(copy) == files(small)
    assert [p.name for p in tmp_path.iterdir()] == ["copy"]
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.tex").write_text("x", encoding="utf-8")
    assert main(["golden", "write", str(mine)]) == 2
    assert "no set of golden vectors" in capsys.readouterr().err
    assert [p.name for p in mine.iterdir()] == ["thesis.tex"]
    a_file = mine / "thesis.tex"
    with pytest.raises(GoldenError, match="not an empty directory"):
        write(a_file)


def test_an_unknown_id_is_named():
    with pytest.raises(GoldenError, match="no such id"):
        load()["cast/nothing"]
    assert "cast/nothing" not in load()
    assert next(iter(load())) in load()


def test_every_op_has_its_attributes_and_inputs():
    """Those that every vector has, no fewer and no more; all others are of some vectors only."""
    assert set(ATTRIBUTES) == set(INPUTS) == set(OPS)
    for op in OPS:
        vectors = [v for v in load().values() if v.op == op]
        assert set(INPUTS[op]) <= set.intersection(*(set(v.inputs) for v in vectors))
        assert set(ATTRIBUTES[op]) <= set.intersection(*(set(v.attributes) for v in vectors))
        known = set(ATTRIBUTES[op]) | {"arithmetic", "scale_arithmetic", "element_arithmetic"}
        assert set().union(*(set(v.attributes) for v in vectors)) - known <= set(), op
