"""Coverage is part of a verdict: planted backends that answer too little, and waivers that hide too much."""

import json
import re
import time

import numpy as np
import pytest

from refscale.cli import main
from refscale.errors import BackendLostError, GoldenError
from refscale.golden import load
from refscale.golden.backends.reference import Reference
from refscale.golden.kit import Claims, Session, Waiver, bisect, judge, load_waivers, run, select, summary, unmet
from refscale.golden.kit.report import bisection_in_words, block_amax, describe, failed
from refscale.golden.kit.runner import check_ids, covered, waivers_toml
from refscale.golden.kit.verdicts import Element
from refscale.golden.schema import Codes, Vector
from tests.golden.test_store import schema, violations

VECTORS = load()
HERE = "tests.golden.test_coverage"
FP16 = "cast/float16/nearest_even/saturate/float32/*"
BLOCKS = "block-cast/mxfp8_e4m3/usual"


def only(*patterns):
    return select(VECTORS.values(), patterns)


class Right(Reference):
    name, version = "right", "1"


class Unsupported:
    """Answers ``unsupported`` to every request."""

    name, version, claims = "unsupported", "1", Claims()

    def cast(self, x, **_):
        raise NotImplementedError("not on this chip")


class UnsupportedClaimed(Unsupported):
    claims = Claims(ops=("cast",))


class LeavesOut(Right):
    """Scales, and no elements."""

    def block_quantize(self, x, random_bits=None, **attributes):
        y = super().block_quantize(x, random_bits, **attributes)
        return {"scales": y["scales"]}


class Misnames(Right):
    """The output "scales" under the name "scale"."""

    def block_quantize(self, x, random_bits=None, **attributes):
        y = super().block_quantize(x, random_bits, **attributes)
        return {"elements": y["elements"], "scale": y["scales"]}


class Bare(Right):
    """No output, as a bare "ok" is."""

    def cast(self, x, **_):
        return {}


class Few(Right):
    """Two calls of a training step."""

    def op(self, **v):
        if v["name"] != "gelu":
            raise NotImplementedError(v["name"])
        return super().op(**v)


class TiesAway(Right):
    name = "ties-away"

    def cast(self, x, *, rounding, **v):
        return super().cast(x, rounding="nearest_away" if rounding == "nearest_even" else rounding, **v)


class Zeros(Right):
    name = "ties-away"

    def cast(self, x, **v):
        return np.zeros_like(super().cast(x, **v))


# --- claimed and unanswered ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "pattern", "words"),
    [
        ("Unsupported", "cast/*", "the method exists, and answers none of its vectors: not on this chip"),
        ("UnsupportedClaimed", "cast/*", "cast is claimed and not answered: not on this chip"),
        ("LeavesOut", BLOCKS, "output elements is missing; the outputs are: scales"),
        ("Misnames", BLOCKS, "output scales is missing; the outputs are: elements, scale"),
        ("Bare", FP16, "output y is missing; the outputs are: none"),
        ("Unsupported", "decode/*", "nothing was judged: no vector is implemented"),
    ],
)
def test_a_backend_that_answers_too_little_fails_for_its_reason(capsys, name, pattern, words):
    assert main(["conform", f"{HERE}:{name}", "--only", pattern]) == 1
    assert words in " ".join(capsys.readouterr().out.split())


def test_one_answer_is_enough_for_a_method_without_a_claim_and_not_for_a_claim():
    class Some(Right):
        def cast(self, x, *, overflow, **v):
            if overflow != "saturate":
                raise NotImplementedError("saturates")
            return super().cast(x, overflow=overflow, **v)

    vectors = only("cast/float16/nearest_even/*/float32/ties")
    assert [r.verdict for r in run(Some(), vectors)] == ["same bits", "not implemented"]
    some = Some()
    some.claims = Claims(ops=("cast",))
    assert [r.verdict for r in run(some, vectors)] == ["same bits", "fail"]
    some.claims = Claims(ops=("cast",), overflows=("saturate",))
    assert [r.verdict for r in run(some, vectors)] == ["same bits", "not implemented"]


def test_an_output_that_is_none_is_not_implemented_unless_its_op_is_claimed():
    class Forward(Right):
        def op(self, **v):
            return {n: y if n == "y" else None for n, y in super().op(**v).items()}

    vector = only("ops/*.gelu/unit/fp32")[0]
    result = judge(Forward(), vector)
    assert (result.verdict, dict(result.outputs)) == (
        "not implemented",
        {"y": "same bits", "grad_x": "not implemented"},
    )
    claimed = Forward()
    claimed.claims = Claims(ops=("op:gelu",))
    result = judge(claimed, vector)
    assert (result.verdict, result.reason) == ("fail", "op is claimed, and its output grad_x is not implemented")


@pytest.mark.parametrize(
    ("claims", "pattern", "reason"),
    [
        (Claims(ops=("decode",)), FP16, "op cast is not claimed"),
        (Claims(ops=("op:gelu",)), "ops/*.relu/unit/fp32", "op op:relu is not claimed"),
        (Claims(ops=("unary:exp",)), "unary/gelu/float16/usual", "op unary:gelu is not claimed"),
        (Claims(sources=("float64",)), FP16, "source float32 is not claimed"),
        (Claims(ops=("op:gelu", "cast"), sources=("float32",)), "ops/*.gelu/unit/fp32", ""),
        (Claims(ops=("op",)), "ops/*.gelu/unit/fp32", ""),
        (Claims(), "matmul/float16.float16/float32/start-usual", "a start value of sums is not claimed"),
        (Claims(start=True), "matmul/float16.float16/float32/start-usual", ""),
    ],
)
def test_claims_of_ops_and_sources(claims, pattern, reason):
    assert {claims.missing(v) + " is not claimed" if claims.missing(v) else "" for v in only(pattern)} == {reason}


@pytest.mark.parametrize("wrong", ["dance", "cast:float16", "op:", ":gelu", "op:\x1b[31m\n"])
def test_a_claim_of_no_op_is_refused(wrong):
    with pytest.raises(GoldenError, match=r"^Claims\(ops='.*'\): expected some of cast, decode"):
        Claims(ops=(wrong,))


# --- requirements and the last line -----------------------------------------------------------------------------------


def test_a_requirement_that_is_not_met_fails(capsys):
    command = ["conform", f"{HERE}:Few", "--only", "ops/*.gelu/*", "--only", "ops/*.relu/*"]
    assert main(command) == 0
    assert main([*command, "--require", "ops/*.gelu/*"]) == 0
    capsys.readouterr()
    assert main([*command, "--require", "ops/*.gelu/*", "--require", "*.relu/*"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "12 vectors: 8 same bits, 0 within bound, 0 waived, 4 not implemented, 0 failed"
    assert re.fullmatch(r"required '\*\.relu/\*': 4 of 4 not implemented, first ops/\d+\.relu/\S+ \(relu\)", lines[-2])
    assert main([*command, "--require", "cast/*"]) == 2
    assert "--require 'cast/*': matches none of 12 vectors" in capsys.readouterr().err


def test_requirements_by_hand():
    results = run(Right(), only(FP16)[:2])
    assert unmet(results, ["cast/*"]) == []
    assert unmet([], []) == ["nothing was judged: no vector is implemented"]
    none = run(Unsupported(), only("decode/float16/*"))
    assert unmet(none, []) == ["nothing was judged: no vector is implemented"]
    assert unmet([*results, *none], []) == []
    (problem,) = unmet([*results, *none], ["*"])
    assert problem.startswith(f"required '*': {len(none)} of {len(none) + 2} not implemented, first decode/float16")


def test_a_program_claims_what_it_answers_once():
    """A backend with ``answer`` has no methods that show which ops it implements."""

    class Program:
        name, version, claims = "program", "1", Claims()

        def answer(self, vector):
            raise NotImplementedError

    results = [judge(Program(), v) for v in only(FP16)]
    assert {r.verdict for r in covered(results)} == {"not implemented"}
    assert unmet(results, [])


def test_a_bisection_tells_what_it_has_judged(capsys):
    where = "model/ffn/unit/fp16"
    found = bisect(Few(), where)
    assert (found.culprit, found.calls, found.passed) == (None, 7, False)
    assert dict(found.missing) == {"fork": 1, "matmul": 2, "bias": 2, "weighted_add": 1}
    assert bisection_in_words(found) == (
        f"{where}: no judged call deviates; 1 of 7 calls judged, "
        "not implemented: 1 fork, 2 matmul, 2 bias, 1 weighted_add"
    )
    assert main(["conform", f"{HERE}:Few", "--bisect", "model/bert-micro/unit/fp8"]) == 1
    assert "no judged call deviates; 2 of 56 calls judged" in capsys.readouterr().out


# --- waivers ----------------------------------------------------------------------------------------------------------

KNOWN = {r.vector.id: r.deviation for r in run(TiesAway(), only(FP16)) if r.verdict == "fail"}


def test_the_signature_of_a_deviation_by_hand():
    """E4M3 has the codes 0x38, 0x39, 0x3a for 1, 1.125, 1.25; places are bits, the first element in the highest."""
    import hashlib

    attributes = {"format": "float8_e4m3fn", "rounding": "nearest_even", "overflow": "saturate"}
    inputs, outputs = (
        {name: Codes.of(np.float32([[1, 1], [1, 1], [1, 1]]), format)}
        for name, format in (("x", "float32"), ("y", "float8_e4m3fn"))
    )
    vector = Vector("cast/hand", "cast", attributes, inputs, outputs)

    class Off(Right):
        def cast(self, x, **_):
            return np.float32([[1, 1.125], [np.nan, 1], [1.25, 1]])

    result = judge(Off(), vector)
    places = hashlib.sha256(bytes([0b01101000])).hexdigest()[:8]
    assert (
        result.deviation == f"y: 3 of 6 elements from [0, 1] to [2, 0] (places {places}), at most 2 ulp, 1 not finite"
    )
    assert result.mismatch.expected == Element("float8_e4m3fn", 0x38, 1.0)
    assert judge(Right(), vector).deviation == ""

    class Raises(Right):
        def cast(self, x, **_):
            raise ValueError("no\nink")

    assert judge(Raises(), vector).deviation == "error: cast raised ValueError: no\\nink"


@pytest.mark.parametrize(
    ("kind", "verdicts"),
    [
        (TiesAway, {"same bits", "waived"}),
        (Zeros, {"fail"}),
        (Right, {"same bits", "unexpectedly fixed"}),
    ],
)
def test_a_waiver_is_of_one_deviation(kind, verdicts):
    results = run(kind(), only(FP16), [Waiver(KNOWN, "ties go away")])
    assert {r.verdict for r in results} == verdicts
    assert failed(results) == (kind is not TiesAway)
    for r in results:
        if r.verdict == "fail" and r.vector.id in KNOWN:
            assert f"the waiver (ties go away) is for {KNOWN[r.vector.id]!r}" in r.reason
    if kind is Right:
        assert f"passes, remove the waiver: {next(iter(KNOWN))} (ties go away)" in summary(kind(), results)


def test_a_waiver_of_what_is_no_longer_implemented_fails():
    class Less(TiesAway):
        claims = Claims(ops=("decode",))

    results = run(Less(), only(FP16), [Waiver(KNOWN, "ties go away")])
    assert {r.reason for r in results if r.verdict == "fail"} == {"waived (ties go away), and no longer implemented"}
    assert {r.vector.id for r in results if r.verdict == "fail"} == set(KNOWN)


def test_a_waiver_is_for_one_backend_and_for_vectors_that_are_run():
    assert {r.verdict for r in run(Right(), only(FP16), [Waiver(KNOWN, "x", "another")])} == {"same bits"}
    assert not failed(run(Right(), only("decode/float16/*"), [Waiver(KNOWN, "x")]))
    check_ids([Waiver(KNOWN, "x")], VECTORS.vectors)
    with pytest.raises(GoldenError, match=r"waiver 'x': no vector has the id 'cast/\*'"):
        check_ids([Waiver({"cast/*": "y"}, "x")], VECTORS.vectors)


def test_waivers_are_written_by_the_command_and_read_again(tmp_path, capsys):
    path = tmp_path / "known.toml"
    command = ["conform", f"{HERE}:TiesAway", "--only", FP16]
    assert main([*command, "--write-waivers", str(path)]) == 1
    with pytest.raises(GoldenError, match="reason is '', expected a sentence"):
        load_waivers(path)
    path.write_text(path.read_text(encoding="utf-8").replace('reason = ""', 'reason = "ties go away"'))
    assert load_waivers(path) == (Waiver(KNOWN, "ties go away", "ties-away"),)
    capsys.readouterr()
    assert main([*command, "--waivers", str(path)]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert (
        last
        == f"12 vectors: {12 - len(KNOWN)} same bits, 0 within bound, {len(KNOWN)} waived, 0 not implemented, 0 failed"
    )
    assert main([*command[:1], f"{HERE}:Zeros", *command[2:], "--waivers", str(path)]) == 1
    assert main(["conform", f"{HERE}:TiesAway", "--only", "decode/float16/*", "--waivers", str(path)]) == 0
    assert waivers_toml(Right(), run(Right(), only(FP16))) == ""


GOOD = 'reason = "x"\n[waiver.vectors]\n"a" = "y: 1"'


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[[waiver]]\nids = ["*"]\nreason = "x"', r"ids is \['\*'\], expected vectors, a table of the deviation by id"),
        ('[[waiver]]\n[waiver.vectors]\n"a" = "y: 1"', "reason is None"),
        ('[[waiver]]\nreason = " "\n[waiver.vectors]\n"a" = "y: 1"', "why is this deviation accepted"),
        ('[[waiver]]\nreason = "x"', "vectors is None, expected a table"),
        ('[[waiver]]\nreason = "x"\nvectors = {}', "vectors is {}, expected a table"),
        ('[[waiver]]\nreason = "x"\nvectors = {a = 1}', "expected a table of the deviation by id"),
        ('[[waiver]]\nreason = "x"\nvectors = {a = ""}', "expected a table of the deviation by id"),
        (f"[[waiver]]\nwhen = 3\n{GOOD}", "unknown key when"),
        (f"[[waiver]]\nbackend = 3\n{GOOD}", "backend is 3, expected a name"),
        (f"[[waiver]]\n{GOOD}\n[[waiver]]\n{GOOD}", "a is in two waivers"),
        ('[waivers]\nids = ["a"]', r"expected tables \[\[waiver\]\]"),
        ("[[waiver", "Expected"),
    ],
)
def test_bad_waivers_are_named(tmp_path, text, words):
    path = tmp_path / "waivers.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(GoldenError, match=words):
        load_waivers(path)


def test_a_waivers_file_by_hand(tmp_path):
    path = tmp_path / "waivers.toml"
    other = GOOD.replace("[waiver", 'backend = "mine"\n[waiver').replace('"x"', '" a  word \\n"')
    path.write_text(f"[[waiver]]\n{GOOD}\n[[waiver]]\n{other}\n", encoding="utf-8")
    assert load_waivers(path) == (Waiver({"a": "y: 1"}, "x"), Waiver({"a": "y: 1"}, "a  word", "mine"))
    path.write_text("", encoding="utf-8")
    assert load_waivers(path) == ()


# --- time limits and partial runs ------------------------------------------------------------------------------------


class Sleeps(Right):
    name = "sleeps"

    def cast(self, x, *, overflow, **v):
        while overflow == "nonsaturate":
            time.sleep(0.01)
        return super().cast(x, overflow=overflow, **v)


def test_a_method_that_hangs_fails_its_vector_and_the_rest_goes_on(tmp_path, capsys):
    vectors = only("cast/float16/nearest_even/*/float32/ties", "cast/bfloat16/nearest_even/*/float32/ties")
    session = Session(Sleeps(), timeout=0.3, restarts=2)
    results = [session.judge(v) for v in vectors]
    assert [r.verdict for r in results] == ["same bits", "fail"] * 2
    assert results[1].reason == "cast has not returned within 0.3 s"
    report = tmp_path / "report.json"
    command = ["conform", f"{HERE}:Sleeps", "--timeout", "0.3", "--restarts", "0", "--json", str(report)]
    assert main([*command, "--only", "cast/float16/nearest_even/*/float32/ties", "--only", "decode/float16/*"]) == 2
    told = capsys.readouterr()
    count = len(only("decode/float16/*"))
    assert told.out.splitlines()[-1].startswith("2 vectors: 1 same bits")
    assert told.err == (
        "refscale: cast has not returned within 0.3 s; the request was: "
        "cast/float16/nearest_even/nonsaturate/float32/ties; "
        f"{count} vectors not run, 0 restarts allowed (--restarts)\n"
    )
    document = json.loads(report.read_text(encoding="utf-8"))
    assert (document["complete"], document["passed"], len(document["vectors"])) == (False, False, 2)


def test_a_call_that_hangs_is_the_one_that_a_bisection_finds():
    class Hangs(Right):
        def op(self, *, name, **v):
            while name == "bias":
                time.sleep(0.01)
            return super().op(name=name, **v)

    found = bisect(Hangs(), "model/ffn/unit/fp16", Session(Hangs(), timeout=1.0, restarts=9))
    assert found.culprit.result.reason == "op has not returned within 1 s"
    assert found.culprit.result.vector.attributes["name"] == "bias"


def test_exceptions_of_a_method_pass_through_the_time_limit():
    class Raises(Right):
        def cast(self, x, **_):
            raise ValueError("x")

        def decode(self, codes, **_):
            raise KeyboardInterrupt

    session = Session(Raises(), timeout=30)
    assert session.judge(only(FP16)[0]).reason == "cast raised ValueError: x"
    with pytest.raises(KeyboardInterrupt):
        session.judge(only("decode/float16/*")[0])


def test_a_lost_backend_is_restarted_so_many_times():
    class Dies(Right):
        alive, starts = True, 0

        def cast(self, x, *, overflow, **v):
            if not self.alive or overflow == "nonsaturate":
                self.alive = False
                raise BackendLostError("gone; the request was: cast")
            return super().cast(x, overflow=overflow, **v)

        def restart(self):
            self.alive, self.starts = True, self.starts + 1

    vectors = only("cast/float8_*/nearest_even/*/float32/ties")
    dies = Dies()
    session = Session(dies, restarts=2)
    results = []
    assert len(vectors) > 6
    results = [session.judge(v) for v in vectors[:6]]
    with pytest.raises(BackendLostError, match="gone; the request was: cast"):
        session.judge(vectors[6])
    assert dies.starts == 2
    assert [r.verdict for r in results] == ["same bits", "fail"] * 3
    assert results[1].reason == "gone"
    with pytest.raises(BackendLostError):
        run(Dies(), vectors)


# --- diagnosis --------------------------------------------------------------------------------------------------------


def test_scales_come_before_elements_with_the_amax():
    class Low(Right):
        def block_quantize(self, x, random_bits=None, **attributes):
            y = super().block_quantize(x, random_bits, **attributes)
            return {"elements": y["elements"] ^ 1, "scales": y["scales"] - 1}

    x = np.zeros((2, 64), np.float32)
    x[0, 5], x[1, 40] = -6.0, 448.0
    vector = VECTORS[BLOCKS]
    right = Right().block_quantize(x, **vector.attributes)
    outputs = {
        "elements": Codes("float8_e4m3fn", right["elements"]),
        "scales": Codes("float8_e8m0fnu", right["scales"]),
    }
    result = judge(
        Low(), Vector("block-cast/hand", "block_quantize", vector.attributes, {"x": Codes.of(x, "float32")}, outputs)
    )
    assert [m.output for m in result.mismatches] == ["scales", "elements"]

    text = describe(result)
    assert text.index("  the amax of its block is 0xc0c00000 (-6)") > text.index(
        next(t for t in text if "scales[0, 0]" in t)
    )
    assert str(block_amax(result.vector, "scales", (1, 1))) == "0x43e00000 (448)"
    assert str(block_amax(result.vector, "elements", (1, 63))) == "0x43e00000 (448)"
    assert str(block_amax(result.vector, "tensor_scale", ())) == "0x43e00000 (448)"
    assert block_amax(VECTORS["cast/float8_e4m3fn/nearest_even/saturate/float32/ties"], "y", (0,)) is None


def test_the_report_as_json_has_numbers(tmp_path):
    report = tmp_path / "report.json"
    wanted = ["--only", FP16, "--only", "unary/exp/float16/usual", "--only", "convention/*"]
    assert main(["conform", f"{HERE}:TiesAway", *wanted, "--json", str(report)]) == 1
    document = json.loads(report.read_text(encoding="utf-8"))
    assert violations(document, schema("report.schema.json")) == []
    assert violations({**document, "totals": {"fail": "2"}}, schema("report.schema.json"))
    assert (document["schema"], document["complete"], document["passed"], document["problems"]) == (1, True, False, [])
    assert document["set"] == {"version": VECTORS.version, "sha256": VECTORS.sha256}
    (entry,) = [v for v in document["vectors"] if v["id"] == FP16.replace("*", "ties")]
    (m,) = entry["mismatches"]
    assert m["actual"] == {"format": "float16", "value": 6.109476089477539e-05, "code": 0x401}
    assert (m["index"], m["ulps"], m["source"]["code"]) == ([0], 1, 0x38801000)
    assert entry["deviation"] == KNOWN[entry["id"]]


def test_an_interrupted_run_has_its_report(tmp_path, monkeypatch):
    class Interrupted(Right):
        def decode(self, codes, **_):
            raise KeyboardInterrupt

    monkeypatch.setattr("refscale.cli.conformance.find", lambda _: Interrupted())
    report = tmp_path / "report.json"
    wanted = ["--only", "cast/float16/up/*", "--only", "decode/float16/*"]
    assert main(["conform", "mine:Mine", *wanted, "--json", str(report)]) == 130
    document = json.loads(report.read_text(encoding="utf-8"))
    assert (document["complete"], document["passed"], document["lost"]) == (False, False, "interrupted")
    assert len(document["vectors"]) == len(only("cast/float16/up/*"))


def test_selection_by_flag(capsys):
    chosen = select(VECTORS.values(), ["cast/float16/*"], flags=["carry", "tie-even"])
    assert chosen == [v for v in only("cast/float16/*") if {"carry", "tie-even"} & set(v.flags)]
    assert main(["conform", f"{HERE}:Right", "--only", FP16, "--flag", "tie-even"]) == 0
    assert main(["conform", f"{HERE}:Right", "--flag", "tied"]) == 2
    assert "--flag 'tied': expected one of tie-even" in capsys.readouterr().err


def test_the_protocol_is_printed(capsys):
    assert main(["conform", "--protocol"]) == 0
    assert "refscale-pipe 3 name=mychip" in capsys.readouterr().out
