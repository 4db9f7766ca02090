import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import refscale
from refscale import analysis
from refscale.cli import main
from refscale.cli.arguments import PANELS
from refscale.stats import KINDS

SMALL = ["--batch", "2", "--seq", "32"]


def run(capsys, *argv):
    code = main(argv)
    out, err = capsys.readouterr()
    return code, out, err


def outside(out, scheme):
    line = next(line for line in out.split("\n") if line.startswith(f"{scheme}: "))
    words = line.split()
    return int(words[1]), int(words[3])


class TestReport:
    def test_without_arguments(self, capsys):
        code, out, err = run(capsys)
        assert (code, err) == (0, "")
        r, u = outside(out, "regular"), outside(out, "unit")
        assert r[0] > 0.8 * r[1]
        assert u[0] < 0.15 * u[1]
        assert max(map(len, out.splitlines())) <= 100
        assert run(capsys, "report", "bert-tiny", "--scheme", "both") == (0, out, "")

    def test_one_scheme(self, capsys):
        code, out, _ = run(capsys, "report", "--model", "bert-tiny", "--scheme", "unit-rms", *SMALL)
        assert code == 0
        assert "unit-rms: " in out
        assert "regular" not in out

    def test_unconstrained(self, capsys):
        """Forks compensate the factors: no gradient of an activation is outside [1/4, 4].

        One activation may be: the logits of next sentence, two numbers that are nearly the same for all sequences.
        """
        assert main(["report", "bert-tiny", "--scheme", "unit", "--constraint", "none"]) == 0
        out = capsys.readouterr().out
        assert ", constraint none" in out
        assert re.search(r"^  weights 0/24, activations [01]/42, activation gradients 0/54, weight", out, re.MULTILINE)

    def test_json_and_plot(self, capsys, tmp_path):
        pytest.importorskip("matplotlib")
        path, figure = tmp_path / "r.json", tmp_path / "r.svg"
        code, out, _ = run(capsys, "report", *SMALL, "--seed", "5", "--json", str(path), "--plot", str(figure))
        assert code == 0
        reports = analysis.load(path)
        assert [r.scheme for r in reports] == ["regular", "unit"]
        assert (reports[0].batch, reports[0].seq, reports[0].seed) == (2, 32, 5)
        assert outside(out, "unit") == (reports[1].summary().outside_count, reports[1].summary().judged_count)
        assert sorted(p.name for p in tmp_path.iterdir()) == ["r.json", "r.svg"]

    @pytest.mark.parametrize(("name", "kind"), PANELS.items())
    def test_panels(self, name, kind, capsys, tmp_path, monkeypatch):
        pytest.importorskip("matplotlib")
        drawn = []
        monkeypatch.setattr(analysis, "report", lambda *_, **__: None)
        monkeypatch.setattr(analysis, "render", lambda *_, **__: "")
        monkeypatch.setattr(analysis, "plot", lambda _, __, kinds: drawn.append(list(kinds)))
        plot = ["--plot", str(tmp_path / "r.svg")]
        assert run(capsys, "report", *plot)[0] == run(capsys, "report", *plot, "--panels", name)[0] == 0
        assert drawn == [list(KINDS), [kind]]
        assert kind.replace(" ", "-") + "s" == name

    def test_precision_mix(self, capsys, tmp_path):
        mix = "store=bf16,operand=e4m3fn"
        path = tmp_path / "r.json"
        code, out, _ = run(capsys, "report", "--scheme", "unit", "--precision", mix, "--json", str(path), *SMALL)
        assert code == 0
        assert mix in out
        assert {c["format"] for c in json.loads(path.read_text())["reports"][0]["casts"]} == {
            "bfloat16",
            "float8_e4m3fn",
        }

    def test_text_file(self, capsys, tmp_path):
        path = tmp_path / "t.txt"
        path.write_text("One day the sun rose. The bird sang. Nobody heard it at all. " * 60)
        code, _, err = run(capsys, "report", "--scheme", "unit", "--text", str(path), *SMALL)
        assert (code, err) == (0, "")

    def test_all(self, capsys):
        _, short, _ = run(capsys, "report", "--scheme", "unit", *SMALL)
        _, long, _ = run(capsys, "report", "--scheme", "unit", "--all", *SMALL)
        assert len(long) > len(short)


class TestErrors:
    @pytest.mark.parametrize(
        ("argv", "said"),
        [
            (["report", "bert-huge"], "get_config('bert-huge'): expected one of bert-tiny, bert-mini, "),
            (["report", "--precision", "fp12"], "get_precision('fp12'): expected one of fp32, fp16, "),
            (["report", "--precision", "store=e4m3"], "format 'e4m3' is three different formats"),
            (["report", "--text", "/no/such.txt"], "load_text('/no/such.txt'): cannot be read (No such file or dir"),
            (["report", "--batch", "0"], "report(batch=0, seq=128, seed=0): expected batch, seq ≥ 1, seed ≥ 0"),
            (["report", "--seq", "9999", "--batch", "1"], "sequence length 9999, expected at most 512"),
            (["report", "bert-tiny", "--model", "bert-base"], "two models, 'bert-tiny' and --model 'bert-base'"),
            (["report", "--json", "/no/dir/x.json"], "cannot write '/no/dir/x.json': there is no directory '/no/dir'"),
            (["report", "--plot", "x.bmp"], "plot: cannot write 'x.bmp', expected a name ending in .svg, .png, .pdf"),
            (["report", "--panels", "weights"], "report: --panels weights without --plot FILE, expected both"),
            (
                ["report", "--pretrained", "x", "--plot", "x.svg", "--panels", "weights"],
                "'x' with --panels, not applicable to it",
            ),
            (["snr", "--formats", "float17"], "unknown format 'float17'"),
            (["snr", "--blocks", "--formats", "fp16"], "--blocks with --formats, expected one of the two"),
            (["snr", "--pretrained", "x"], "--pretrained is for --blocks"),
            (["ops", "--shape", "q=3"], "unknown size 'q'"),
        ],
    )
    def test_message_and_status(self, capsys, argv, said):
        code, out, err = run(capsys, *argv)
        assert (code, out) == (2, "")
        assert err.startswith("refscale: ")
        assert said in err
        assert err.count("\n") == 1

    def test_missing_matplotlib_is_said_before_the_run(self, capsys, monkeypatch):
        monkeypatch.setitem(sys.modules, "matplotlib", None)
        monkeypatch.setattr(analysis, "report", lambda *_, **__: pytest.fail("ran"))
        code, _, err = run(capsys, "report", "--plot", "x.svg")
        assert (code, err) == (2, "refscale: plot: matplotlib is missing: pip install 'refscale[plots]'\n")

    def test_file_that_cannot_be_written(self, capsys, tmp_path):
        code, _, err = run(capsys, "report", "--scheme", "unit", *SMALL, "--json", str(tmp_path))
        assert code == 2
        assert err.startswith("refscale: ")
        assert "irectory" in err
        assert list(tmp_path.iterdir()) == []

    def test_misspelled_option(self, capsys):
        with pytest.raises(SystemExit) as stop:
            main(["report", "--shceme", "unit"])
        assert stop.value.code == 2
        assert "--shceme" in capsys.readouterr().err

    def test_interrupt(self, capsys, monkeypatch):
        def interrupt(*_, **__):
            raise KeyboardInterrupt

        monkeypatch.setattr(analysis, "report", interrupt)
        assert run(capsys, "report") == (130, "", "")

    def test_bugs_are_not_hidden(self, monkeypatch):
        monkeypatch.setattr(analysis, "report", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            main([])


class TestOthers:
    def test_formats(self, capsys):
        code, out, _ = run(capsys, "formats")
        assert code == 0
        assert "float8_e4m3fnuz" in out

    def test_snr(self, capsys):
        code, out, _ = run(capsys, "snr", "--formats", "fp16,e5m2")
        assert code == 0
        assert "← unit scale" in out

    def test_snr_plot(self, capsys, tmp_path):
        pytest.importorskip("matplotlib")
        assert run(capsys, "snr", "--plot", str(tmp_path / "s.png"))[0] == 0
        assert (tmp_path / "s.png").read_bytes().startswith(b"\x89PNG")

    def test_ops(self, capsys):
        code, out, _ = run(capsys, "ops", "--shape", "b=64,m=16,n=4")
        assert code == 0
        row = "".join(re.findall(r"^matmul .*\n.*", out, re.MULTILINE)[:1])
        assert "(64,16) (16,4)" in row
        assert " 0.25 " in row  # 16^-1/2
        assert " 0.5, 0.125 " in row  # 4^-1/2, 64^-1/2

    @pytest.mark.parametrize("command", [[], ["report"], ["formats"], ["snr"], ["ops"]])
    def test_help(self, capsys, command):
        with pytest.raises(SystemExit) as stop:
            main([*command, "--help"])
        assert stop.value.code == 0
        assert capsys.readouterr().out.startswith("usage: refscale")

    def test_version(self, capsys):
        with pytest.raises(SystemExit) as stop:
            main(["--version"])
        assert stop.value.code == 0
        assert capsys.readouterr().out == f"refscale {refscale.__version__}\n"


def process(*argv, **environment):
    command = [sys.executable, "-W", "error", "-m", "refscale", *argv]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, **environment}, text=False
    )


class TestProcess:
    def test_module_is_quiet_when_piped(self):
        with process("report", "--scheme", "unit", *SMALL) as p:
            out, err = p.communicate(timeout=60)
        assert (p.returncode, err) == (0, b"")
        assert b"unit: " in out

    def test_reader_goes_away(self):
        with process("report", "--all", *SMALL) as p:
            p.stdout.close()
            err = p.stderr.read()
            p.wait(timeout=60)
        assert (p.returncode, err) == (141, b"")

    def test_a_zipped_install(self, tmp_path):
        """What comes with the package is read from inside the zip; golden vectors are not generated anew here."""
        package = Path(refscale.__file__).parent
        with zipfile.ZipFile(tmp_path / "refscale.zip", "w") as zipped:
            for file in package.rglob("*"):
                if "__pycache__" not in file.parts:
                    zipped.write(file, file.relative_to(package.parent))
        code = (
            "import refscale, refscale.sweep\n"
            "from refscale.cli import main\n"
            "from refscale.golden import store\n"
            "assert 'refscale.zip' in refscale.__file__\n"
            "assert refscale.sweep.load_spec('charlm').seeds == 3\n"
            "names = [*store._top(store.DATA)['files'], 'manifest.json']\n"
            "store.render = lambda full: {name: (store.DATA / name).read_bytes() for name in names}\n"
            "assert main(['golden', 'check']) == main(['conform', 'reference', '--only', 'cast/float16/up/*']) == 0\n"
        )
        env = {**os.environ, "PYTHONPATH": str(tmp_path / "refscale.zip")}
        done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")
        assert "vectors: every hash and every byte is right" in done.stdout

    def test_matplotlib_is_not_imported_unasked(self):
        code = (
            "import sys, refscale.cli as c; c.main(['snr', '--formats', 'e5m2']); sys.exit('matplotlib' in sys.modules)"
        )
        assert subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL, check=False).returncode == 0
