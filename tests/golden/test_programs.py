"""Backends that are programs: the protocol, the examples in C and JavaScript, and programs that misbehave."""

import json
import shutil
import subprocess
import sys
from collections import Counter
from importlib import resources

import pytest

from refscale.cli import main
from refscale.errors import ArgumentError, BackendLostError, GoldenError, shown
from refscale.golden import load
from refscale.golden.kit import Session, judge, run, select
from refscale.golden.kit.pipe import PipeBackend, read_reply, request
from refscale.golden.kit.report import failed
from refscale.golden.schema import Codes, Vector

VECTORS = load()
TIES = "cast/float8_e4m3fn/nearest_even/saturate/float32/ties"


def only(*patterns):
    return select(VECTORS.values(), patterns)


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler")
    path = tmp_path_factory.mktemp("c") / "backend"
    with resources.as_file(resources.files("refscale.golden") / "examples/backend.c") as source:
        warnings = ["-Wall", "-Wextra", "-Werror"]
        subprocess.run(
            [compiler, "-O2", "-ffp-contract=off", *warnings, "-o", path, source, "-lm"], check=True, timeout=120
        )
    return path


def test_the_example_in_c_conforms(program):
    with PipeBackend(str(program)) as backend:
        results = run(backend, only("cast/*", "decode/*", "matmul/*"))
    verdicts = {v: sum(r.verdict == v for r in results) for v in ("same bits", "within bound", "fail")}
    assert verdicts["fail"] == 0
    assert verdicts["same bits"] > 200
    assert verdicts["within bound"] == 12  # a factor of 0.1125 or 0.7, which the program rounds to float32


def test_the_example_in_javascript_conforms():
    """Written from the description of the protocol alone."""
    if (node := shutil.which("node")) is None:
        pytest.skip("no node")
    example = resources.as_file(resources.files("refscale.golden") / "examples/backend.js")
    with example as source, PipeBackend(f"{node} {source}") as backend:
        results = run(backend, only("cast/*"))
    verdicts = Counter(r.verdict for r in results)
    assert verdicts["fail"] == 0
    assert verdicts["same bits"] > 140


def test_the_command_runs_a_program(program, capsys):
    assert main(["conform", "--pipe", str(program), "--only", "cast/float16/nearest_even/*"]) == 0
    claims = "claims accumulate float32 from a start value, ops cast, decode, matmul"
    assert f"example-c 2: {claims}" in capsys.readouterr().out


def test_a_program_gets_start_values_if_it_claims_them(program):
    with PipeBackend(str(program)) as backend:
        assert backend.claims.start
        results = run(backend, only("matmul/float16.float16/float32/start-*"))
    assert [r.verdict for r in results] == ["same bits"] * 5


def test_a_wrong_program_fails(program, tmp_path):
    """Each nonzero code one off: a filter between the kit and the right program."""
    script = tmp_path / "wrong.py"
    script.write_text(
        f"""
import subprocess, sys
p = subprocess.Popen([{str(program)!r}], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
for line in sys.stdin:
    p.stdin.write(line)
    p.stdin.flush()
    print(p.stdout.readline().strip().replace(" 3a", " 3b"), flush=True)
""",
        encoding="utf-8",
    )
    with PipeBackend(f"{sys.executable} {script}") as backend:
        assert failed(run(backend, only("cast/float8_e4m3fn/nearest_even/saturate/float32/*")))


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("print('hello')", "expected 'refscale-pipe 3"),
        ("print('refscale-pipe 4 name=a version=1')", "expected 'refscale-pipe 3"),
        ("print('refscale-pipe 2 name=a version=1 ops=cast')", "unknown fields ops"),
        ("print('refscale-pipe 2 name=a version=1 start=1')", "unknown fields start"),
        ("print('refscale-pipe 3 name=a version=1 start=yes')", "start=yes, expected 0 or 1"),
        ("print('refscale-pipe 3 name=a version=1 ops=dance')", "ops='dance'.*expected some of cast"),
        ("print('refscale-pipe 3 name=\\x1b[31ma version=1')", r"name '\\\\x1b\[31ma': expected 1 to 200 printable"),
        ("print('refscale-pipe 3 name=' + 'a' * 100000 + ' version=1')", "name 'a{39}…': expected 1 to 200"),
        ("print('refscale-pipe 3 name=a version=' + 'v' * 201)", "version 'v{39}…': expected 1 to 200"),
        ("print('refscale-pipe 3 name=a version=1 ' + 'speed=9\\x1b ' * 9)", r"unknown fields speed"),
        ("print('refscale-pipe 1 version=1')", "has no name="),
        ("print('refscale-pipe 1 name=a version=1 speed=9')", "unknown fields speed"),
        ("print('refscale-pipe 1 name=a version=1 formats=fp3')", "fp3"),
        ("raise SystemExit(3)", "ended with status 3"),
    ],
)
def test_bad_greetings_are_named(tmp_path, body, words):
    script = tmp_path / "p.py"
    script.write_text(f"{body}\n", encoding="utf-8")
    with pytest.raises(GoldenError, match=words):
        PipeBackend(f"{sys.executable} {script}")
    with pytest.raises(GoldenError, match="cannot be started"):
        PipeBackend(str(tmp_path / "missing"))


@pytest.mark.parametrize(
    ("reply", "verdict", "words"),
    [
        ("unsupported", "not implemented", "the program replies: unsupported"),
        ("error out of ink", "fail", "error out of ink"),
        ("ok | y 00", "fail", "1 code, expected"),
        ("ok | y " + "zz " * 236, "fail", "'zz', expected codes"),
        ("ok | y " + "0x0 " * 236, "fail", "'0x0', expected codes of float8_e4m3fn in hexadecimal"),
        ("ok | y " + "0_0 " * 236, "fail", "'0_0', expected codes"),
        ("ok | y " + "+0 " * 236, "fail", "'+0', expected codes"),
        ("ok | y " + "\u0661 " * 236, "fail", "'\u0661', expected codes"),
        ("ok | y " + "100 " * 236, "fail", "expected codes of float8_e4m3fn"),
        ("ok", "fail", "output y is missing; the outputs are: none"),
        ("ok | ", "fail", "an output '' without name and codes"),
        ("ok |  | y 00", "fail", "an output '' without name and codes"),
        ("ok | z 00", "fail", "output y is missing; the outputs are: z"),
        ("ok | y unsupported | y unsupported", "fail", "an output 'y' twice"),
        ("error \x1b[2J" + "x" * 200000, "fail", "the program replies: error \\x1b[2Jxxx"),
    ],
)
def test_bad_replies_are_named(tmp_path, reply, verdict, words):
    script = tmp_path / "p.py"
    script.write_text(
        f"import sys\nprint('refscale-pipe 1 name=a version=1', flush=True)\nnext(sys.stdin)\n"
        f"for line in sys.stdin: print({reply!r}, flush=True)\n",
        encoding="utf-8",
    )
    with PipeBackend(f"{sys.executable} {script}") as backend:
        result = judge(backend, VECTORS[TIES])
    assert result.verdict == verdict
    assert words in result.reason
    assert len(result.reason) < 300
    assert result.reason.isprintable()


GREETING = "import sys\nimport time\nprint('refscale-pipe 1 name=a version=1', flush=True)\nnext(sys.stdin)\n"
GRANDCHILD = "import os\nif not os.fork():\n    os.setsid()\n    time.sleep(20)\n    os._exit(0)\nnext(sys.stdin)\n"
"""A process outside the program's group, which keeps its standard output open."""


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("next(sys.stdin)", "the program ended with status 0"),
        ("next(sys.stdin)\nraise SystemExit(7)", "the program ended with status 7"),
        ("time.sleep(60)", "no reply within 2 s"),
        ("next(sys.stdin)\nimport subprocess\nsubprocess.run(['sleep', '60'])", "no reply within 2 s"),
        (GRANDCHILD + "time.sleep(60)", "no reply within 2 s"),
        (GRANDCHILD + "os._exit(3)", "the program ended with status 3"),
        ("import os\nos.close(0)\ntime.sleep(60)", "the program closed its input and did not end"),
        ("import os\nos.close(1)\ntime.sleep(60)", "the program closed its output and did not end"),
        ("next(sys.stdin)\nprint('fine', flush=True)", "expected 'ok"),
        ("next(sys.stdin)\nprint(flush=True)", "expected 'ok"),
        ("next(sys.stdin)\nprint('errors', flush=True)", "expected 'ok"),
        ("next(sys.stdin)\nprint('\\x1b[31m' * 999, flush=True)", r"got '\\x1b[31m"),
        ("next(sys.stdin)\nwhile True: sys.stdout.write('y' * 4096)", "a line of more than 10000 bytes"),
        ("next(sys.stdin)\nwhile True: print('ok | y 00')", "an unrequested line, 'ok | y 00'"),
    ],
)
def test_a_program_that_is_lost_ends_the_run_in_one_line(tmp_path, capsys, body, words):
    """An early exit, a hang, nonsense, a flood: one failure, and one line that names the request."""
    script, report = tmp_path / "p.py", tmp_path / "report.json"
    script.write_text(GREETING + body + "\n", encoding="utf-8")
    seconds = "2" if "no reply" in words else "30"  # a slow machine takes a while to start Python
    limits = ["--timeout", seconds, "--longest-line", "10000", "--restarts", "0", "--json", str(report)]
    assert main(["conform", "--pipe", f"{sys.executable} {script}", *limits, "--only", "cast/float8_e4m3fn/*"]) == 2
    told = capsys.readouterr()
    last = told.out.splitlines()[-1]
    assert last.startswith(("1 vector: 0 same bits", "2 vectors: 0 same bits"))  # 2: the first reply came in time
    assert words in told.err
    assert "the request was: cast" in told.err
    assert "vectors not run, 0 restarts allowed (--restarts)" in told.err
    assert len(told.err.splitlines()) == 1
    assert len(told.err) < 500
    assert told.err.rstrip("\n").isprintable()
    document = json.loads(report.read_text(encoding="utf-8"))
    assert (document["complete"], document["passed"], len(document["vectors"])) == (False, False, int(last[0]))


def test_a_crash_fails_its_vector_and_the_rest_goes_on(tmp_path, capsys):
    script = tmp_path / "p.py"
    script.write_text(
        "import sys\nprint('refscale-pipe 3 name=a version=1 ops=cast formats=float8_e4m3fn', flush=True)\n"
        "next(sys.stdin)\nfor line in sys.stdin:\n"
        "    if ' rounding=down ' in line: raise SystemExit(9)\n"
        "    print('ok | y ' + '00 ' * len(line.split(' | ')[1].split()[3:]), flush=True)\n",
        encoding="utf-8",
    )
    with PipeBackend(f"{sys.executable} {script}") as backend:
        session = Session(backend, restarts=2)
        wanted = ("zero", "inside")
        patterns = [f"cast/float8_e4m3fn/{r}/saturate/float32/{w}" for r in ("nearest_even", "down") for w in wanted]
        known = [v for v in VECTORS.values() if v.id in patterns]
        results = [session.judge(v) for v in known]
    crashed = [r for r in results if r.reason]
    assert {r.reason for r in crashed} == {"the program ended with status 9"}
    assert [r.vector.attributes["rounding"] for r in crashed] == ["down"] * len(crashed)
    assert not session.lost
    assert len(results) == len(known) > len(crashed) > 0


def test_a_program_that_is_another_after_a_restart_is_lost(tmp_path):
    script, count = tmp_path / "p.py", tmp_path / "count"
    script.write_text(
        f"import sys\nopen({str(count)!r}, 'a').write('x')\n"
        f"print('refscale-pipe 1 name=a version=' + str(len(open({str(count)!r}).read())), flush=True)\n"
        "next(sys.stdin)\nnext(sys.stdin)\n",
        encoding="utf-8",
    )
    with PipeBackend(f"{sys.executable} {script}") as backend:
        session = Session(backend)
        assert session.judge(VECTORS[TIES]).verdict == "fail"
        assert "after a restart its greeting is another one" in session.lost


def test_standard_error_is_passed_on_up_to_a_limit(tmp_path, capfd):
    script = tmp_path / "p.py"
    script.write_text(
        GREETING + "sys.stderr.write('note \\x1b[31m\\n' + 'e' * 300000)\nsys.stderr.flush()\n"
        "for line in sys.stdin: print('unsupported', flush=True)\n",
        encoding="utf-8",
    )
    with PipeBackend(f"{sys.executable} {script}") as backend:
        assert judge(backend, VECTORS[TIES]).verdict == "not implemented"
    told = capfd.readouterr().err
    assert told.startswith("note \\x1b[31m\neee")
    assert len(told) < 10000


def test_the_text_of_others_is_one_line():
    assert shown("a\x1b[31m\nb\u2028\u202ec") == "a\\x1b[31m\\nb\\u2028\\u202ec"
    assert shown("é" * 300) == "é" * 199 + "…"
    assert shown("x" * 200) == "x" * 200
    assert shown(b"\xff\n", 5) == "�\\n"


@pytest.mark.parametrize(
    ("format", "codes", "values"),
    [("int64", "ffffffffffffffff 5", [-1, 5]), ("bool", "0 1", [False, True]), ("uint8", "ff 0", [255, 0])],
)
def test_plain_arrays_in_a_reply(format, codes, values):
    vector = Vector("cast/hand", "cast", {}, {}, {"y": Codes.of(values, format)})
    assert read_reply(f"ok | y {codes}", vector)["y"].tolist() == values
    wrong = {"int64": "10000000000000000 0", "bool": "2 0", "uint8": "100 0"}[format]
    with pytest.raises(GoldenError, match=f"expected codes of {format} in hexadecimal"):
        read_reply(f"ok | y {wrong}", vector)


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        ("unsupported", "nothing was judged: no vector is implemented"),
        ("ok", "output y is missing; the outputs are: none"),
    ],
)
def test_a_program_that_answers_nothing_fails(tmp_path, capsys, reply, words):
    script = tmp_path / "p.py"
    script.write_text(GREETING + f"for line in sys.stdin: print({reply!r}, flush=True)\n", encoding="utf-8")
    assert main(["conform", "--pipe", f"{sys.executable} {script}", "--only", "cast/float16/up/*"]) == 1
    assert words in capsys.readouterr().out


def test_a_space_in_a_name_is_written_as_a_line():
    vector = VECTORS["model/ffn/unit/fp16/whole"]
    assert " | ffn.up.weight float32 16,64 " in request(vector)
    codes = " ".join(f"{c:04x}" for c in vector.outputs["value 000.fork"].codes.reshape(-1))
    reply = read_reply(f"ok | value_000.fork {codes}", vector)
    assert (reply["value 000.fork"] == vector.outputs["value 000.fork"].codes).all()


def test_an_output_may_be_unsupported():
    vector = VECTORS["block-cast/mxfp8_e4m3/usual"]
    scales = " ".join(f"{c:02x}" for c in vector.outputs["scales"].codes.reshape(-1))
    reply = read_reply(f"ok | elements unsupported | scales {scales}", vector)
    assert reply["elements"] is None
    assert (reply["scales"] == vector.outputs["scales"].codes).all()


@pytest.mark.parametrize("body", ["import time\ntime.sleep(60)", "while True: print(end='y' * 4096)"])
def test_a_program_that_never_greets_is_given_up(tmp_path, body):
    script = tmp_path / "p.py"
    script.write_text(body, encoding="utf-8")
    with pytest.raises(GoldenError, match=r"(no reply within 0\.5 s|more than 10000 bytes).*request was: hello 3"):
        PipeBackend(f"{sys.executable} {script}", timeout=0.5, longest_line=10000)


def test_a_program_that_does_not_read_is_given_up(tmp_path):
    """The request is longer than a pipe's buffer: the write waits, and the limit includes that wait."""
    script = tmp_path / "p.py"
    script.write_text(GREETING + "time.sleep(60)\n", encoding="utf-8")
    with PipeBackend(f"{sys.executable} {script}", timeout=0.5) as backend:
        for _ in range(2):  # and once lost, it stays lost
            with pytest.raises(BackendLostError, match="the request was: noop xxxx"):
                backend.ask("noop " + "x" * 2**20)


def test_a_line_may_be_as_long_as_the_limit(tmp_path):
    script = tmp_path / "p.py"
    script.write_text(GREETING + "for line in sys.stdin: print('y' * int(line), flush=True)\n", encoding="utf-8")
    with PipeBackend(f"{sys.executable} {script}", longest_line=100) as backend:
        assert backend.ask("100") == "y" * 100
        with pytest.raises(BackendLostError, match="a line of more than 100 bytes; the request was: 101"):
            backend.ask("101")


@pytest.mark.parametrize("wrong", [{"timeout": 0}, {"timeout": float("nan")}, {"longest_line": 0}])
def test_limits_of_a_program_are_positive(wrong):
    with pytest.raises(ArgumentError, match=f"{next(iter(wrong))}=.*: expected"):
        PipeBackend("true", **wrong)
