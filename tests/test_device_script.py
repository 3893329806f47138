"""benchmarks/device.sh: one document that is whole at any moment, whatever fails, hangs, or is cut short."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import signal
import subprocess
import sys
import sysconfig
import time
import zipfile
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[1]
SCRIPT = CHECKOUT / "benchmarks" / "device.sh"
QUICK = "tests/test_psf.py"


@pytest.fixture(scope="module")
def device():
    """The module behind the script."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(CHECKOUT / "benchmarks"))
        yield importlib.import_module("device")


@pytest.fixture
def run(device, tmp_path):
    """A run that does nothing by itself, with a document in `tmp_path`."""
    args = argparse.Namespace(limit=60.0, dry_run=True, parts="", dry_tests=QUICK, wheels=None, goldens=None)
    made = device.Run(args, tmp_path / "work")
    made.path = tmp_path / "document.json"
    return made


def environment(**more):
    """Of a call from outside: nothing of the run that this test may be part of."""
    ours = ("OUT", "GPUCOADD_COUNTS", "GPUCOADD_GOLDENS")
    kept = {name: value for name, value in os.environ.items() if name not in ours}
    return {**kept, "PYTHON": sys.executable, **more}


def run_script(*words, **more):
    return subprocess.run(
        ["sh", str(SCRIPT), *map(str, words)], check=False, capture_output=True, text=True, env=environment(**more)
    )


def documents(folder):
    return [json.loads(path.read_text()) for path in folder.glob("*.json")]


# ------------------------------------------------------------------------------------------------ as a whole


def test_dry_run(tmp_path):
    done = run_script("--dry-run", tmp_path, "--dry-tests", QUICK)
    (document,) = documents(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [path.suffix for path in tmp_path.iterdir()] == [".json"]
    assert document["complete"] and document["dry_run"]
    assert list(document["parts"]) == ["tests", "bench", "bench-on-stand-in", "comparison"]
    assert {part["exit_code"] for part in document["parts"].values()} == {0}
    assert document["tests"]["complete"] and document["tests"]["passed"] > 5 and document["tests"]["failed"] == 0
    assert document["bench"]["device"] == "cpu" and document["bench"]["complete"]
    assert document["bench_on_stand_in"]["device"] == "cuda:0" and document["bench_on_stand_in"]["complete"]
    assert list(document["bench_on_stand_in"]["steps"]) == list(document["bench"]["steps"])
    comparison = document["comparison"]
    assert comparison["complete"] and not comparison["failed"] and "on NumPy" in comparison["note"]
    assert {"nanmedian", "sigma clipping, array code", "coadd", "decorrelate in cells"} <= set(comparison["results"])
    assert {target["met"] for target in comparison["targets"]} == {None}  # a target is for a device
    assert document["versions"]["numpy"]
    assert str(tmp_path) in done.stdout.splitlines()[-1]
    for line in ("coadd, seconds", "decorrelate / FFT pair", "5 passed"):
        assert line.replace("5 passed", f"tests: {document['tests']['passed']} passed") in done.stdout


@pytest.mark.parametrize("kind", [signal.SIGTERM, signal.SIGKILL])
def test_a_run_that_is_cut_short_leaves_what_it_has(tmp_path, kind):
    words = ["sh", str(SCRIPT), "--dry-run", str(tmp_path), "--parts", "bench,comparison"]
    away = tmp_path / "work"  # what a killed process cannot clear up
    away.mkdir()
    process = subprocess.Popen(words, env=environment(TMPDIR=str(away)), stdout=subprocess.DEVNULL, process_group=0)
    try:
        for _ in range(600):
            time.sleep(0.1)
            found = documents(tmp_path)
            if found and found[0]["bench"].get("steps"):
                break
        else:
            pytest.fail("no step of the bench came into the document")
    finally:
        os.kill(process.pid, kind)
        process.wait(timeout=30)
    (document,) = documents(tmp_path)
    assert not document["complete"] and document["bench"]["steps"]
    assert process.returncode != 0


def test_without_time_nothing_is_begun(tmp_path):
    done = run_script("--dry-run", tmp_path, "--limit", 4)
    (document,) = documents(tmp_path)
    assert done.returncode == 1 and not document["complete"]
    assert {part["exit_code"] for part in document["parts"].values()} == {124}
    assert "no time left" in done.stdout


def test_a_test_that_fails_fails_the_run(tmp_path):
    bad = tmp_path / "test_bad.py"
    bad.write_text("def test_arithmetic():\n    assert 1 + 1 == 3, 'not today'\n")
    done = run_script("--dry-run", tmp_path / "out", "--parts", "tests", "--dry-tests", f"{bad},{QUICK}")
    (document,) = documents(tmp_path / "out")
    assert done.returncode == 1 and not document["complete"]
    assert document["tests"]["failed"] == 1 and document["tests"]["passed"] > 5 and document["tests"]["complete"]
    assert "not today" in next(iter(document["tests"]["failures"].values()))
    assert any("not today" in line for line in document["parts"]["tests"]["output"])
    assert "FAILED or cut short: tests" in done.stdout


def test_no_device_no_document(tmp_path):
    fake = tmp_path / "fake"
    fake.mkdir()
    (fake / "cupy.py").write_text("raise ImportError('libcuda.so.1 is not here')\n")
    done = run_script(tmp_path / "out", PYTHONPATH=str(fake))
    assert done.returncode == 2
    assert done.stderr == "device.sh: no run: ImportError: libcuda.so.1 is not here\n"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--dry-run"], "a dry run needs OUT: benchmarks/results holds real runs only"),
        (["--dry-run", "{out}", "--parts", "tests,lunch"], "--parts: no part 'lunch'; there are tests, bench"),
        (["--dry-run", "{out}", "--limit", "0"], "--limit must be positive, got 0.0"),
        (["--dry-run", "{out}", "--goldens", "{out}"], "must name a folder of reference files, got /"),
        (["--dry-run", "{out}", "--wheels", "{out}"], "--wheels: there is no *.whl in"),
    ],
)
def test_mistakes(words, message, tmp_path):
    done = run_script(*(word.format(out=tmp_path / "out") for word in words))
    assert done.returncode == 2 and message in done.stderr
    assert not (tmp_path / "out").exists()


# ------------------------------------------------------------------------------------------------ its pieces


def test_sources_are_laid_out_as_installed(device, tmp_path):
    tree = tmp_path / "tree"
    device.lay_out(tree)
    assert (tree / "gpucoadd/kernels/common.cuh").is_file() and (tree / "tests/standin.py").is_file()
    code = (
        f"import sys; sys.path[:0] = [{str(tree)!r}, {sysconfig.get_paths()['purelib']!r}]\n"
        "import gpucoadd.fallback; from importlib import metadata\n"
        "print(gpucoadd.__file__, gpucoadd.fallback.__file__, metadata.version('gpucoadd'))"
    )
    # without the site module no other installation of the package is seen
    done = subprocess.run([sys.executable, "-S", "-c", code], check=True, capture_output=True, text=True, cwd=tmp_path)
    version = importlib.import_module("gpucoadd").__version__
    assert done.stdout.split() == [
        str(tree / "gpucoadd/__init__.py"),
        str(tree / "gpucoadd/fallback/__init__.py"),
        version,
    ]


def test_a_part_that_hangs_is_ended_with_all_it_started(device, run, tmp_path):
    result, mark = tmp_path / "result.json", tmp_path / "alive"
    child = f"import time, pathlib\nwhile True: pathlib.Path({str(mark)!r}).touch(); time.sleep(0.1)"
    code = (
        "import json, pathlib, subprocess, sys, time\n"
        f"subprocess.Popen([sys.executable, '-c', {child!r}])\n"
        f"pathlib.Path({str(result)!r}).write_text(json.dumps({{'steps': 3}}))\n"
        "print('half way', flush=True)\n"
        "time.sleep(600)"
    )
    taken = []
    began = time.monotonic()
    code = run.perform(device.Part("slow", [sys.executable, "-c", code], result, cap=3.0), taken.append)
    assert code == 124 and time.monotonic() - began < 20
    assert taken[-1] == {"steps": 3}
    document = json.loads(run.path.read_text())
    assert document["parts"]["slow"]["exit_code"] == 124 and document["parts"]["slow"]["output"] == ["half way"]
    mark.unlink(missing_ok=True)
    time.sleep(0.5)
    assert not mark.exists(), "what the part started is still there"


def test_results_come_in_while_a_part_runs(device, run, tmp_path):
    result, seen = tmp_path / "result.json", tmp_path / "seen"
    code = (
        "import pathlib, time\n"
        f"pathlib.Path({str(result)!r}).write_text('{{\"steps\": 1}}')\n"
        f"while not pathlib.Path({str(seen)!r}).exists(): time.sleep(0.05)\n"
    )

    def into(taken):
        run.document["bench"] = taken
        if run.path.is_file():
            seen.touch()

    assert run.perform(device.Part("bench", [sys.executable, "-c", code], result, cap=30.0), into) == 0
    assert json.loads(run.path.read_text())["bench"] == {"steps": 1}


def test_a_part_has_a_share_of_the_time_that_is_left(device, run):
    run.perform(device.Part("quick", [sys.executable, "-c", ""], None, cap=1000.0, share=0.5), lambda taken: None)
    assert 25 < run.document["parts"]["quick"]["limit"] <= 30


def test_the_code_that_ran_is_named(device, tmp_path, monkeypatch):
    monkeypatch.setattr(device, "CHECKOUT", tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    for folder in device.SOURCES:
        (tmp_path / folder).mkdir()
    source = tmp_path / "kernels" / "grow.cu"
    source.write_text("one")
    first = device.digest()
    (tmp_path / "kernels" / "notes.txt").write_text("no source")
    assert device.digest() == first and len(first) == 12
    source.write_text("two")
    assert device.digest() != first
    monkeypatch.setenv("GPUCOADD_COMMIT", "1234567")
    assert device.commit() == "1234567"
    monkeypatch.delenv("GPUCOADD_COMMIT")
    assert device.commit() == "unknown"


def test_goldens_are_those_that_are_named(device, tmp_path, monkeypatch):
    named, other = tmp_path / "named", tmp_path / "other"
    named.mkdir()
    other.mkdir()
    monkeypatch.chdir(tmp_path)
    for number, (words, variable, expected) in enumerate(
        [
            ([], None, None),
            ([], "", None),
            ([], "other", other),
            (["--goldens", "named"], None, named),
            (["--goldens", str(named)], "other", named),
        ]
    ):
        monkeypatch.delenv("GPUCOADD_GOLDENS", raising=False)
        if variable is not None:
            monkeypatch.setenv("GPUCOADD_GOLDENS", variable)
        monkeypatch.setattr(sys, "argv", ["device.py", *words])
        made = device.Run(device.parsed(), tmp_path / str(number))
        assert made.environment.get("GPUCOADD_GOLDENS") == (None if expected is None else str(expected))
        assert made.document["goldens"] == (expected is not None)


def test_wheels_are_unpacked_without_network(device, run, tmp_path):
    pytest.importorskip("pip")
    folder = tmp_path / "wheels"
    folder.mkdir()
    with zipfile.ZipFile(folder / "carried_along-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("carried_along.py", "VALUE = 41 + 1\n")
        wheel.writestr(
            "carried_along-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: carried-along\nVersion: 1.0\n"
        )
        wheel.writestr(
            "carried_along-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr("carried_along-1.0.dist-info/RECORD", "")
    assert device.install_wheels(run, str(folder)) == ""
    found, trouble = run.ask("import json, carried_along; print(json.dumps({'value': carried_along.VALUE}))")
    assert (found, trouble) == ({"value": 42}, "")
    (folder / "broken-1.0-py3-none-any.whl").write_text("no wheel")
    assert "broken" in device.install_wheels(run, str(folder))


OUTCOMES = """
import pytest

@pytest.mark.parametrize("xp", ["numpy", "cupy"])
def test_passes(xp):
    pass

@pytest.mark.parametrize("xp", ["numpy-3", "3-cupy-x"])
def test_fails(xp):
    assert xp == "numpy-3", "wrong on a device"

@pytest.fixture
def broken():
    raise OSError("no fixture")

def test_errors(broken):
    pass

def test_without_cupy():
    pytest.skip("not here")

@pytest.mark.gpu
def test_speed():
    pass
"""


@pytest.mark.parametrize("workers", [0, 2])
def test_outcomes_are_counted_once(tmp_path, workers):
    if workers:
        pytest.importorskip("xdist")
    tests, counts = tmp_path / "test_outcomes.py", tmp_path / "counts.json"
    tests.write_text(OUTCOMES)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = gpu\n")
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "counting", str(tests)]
    words += ["-n", str(workers)] if workers else []
    more = {"GPUCOADD_COUNTS": str(counts), "PYTHONPATH": str(CHECKOUT / "benchmarks")}
    done = subprocess.run(words, check=False, capture_output=True, text=True, cwd=tmp_path, env=environment(**more))
    assert done.returncode == 1, done.stdout + done.stderr
    found = json.loads(counts.read_text())
    assert found.pop("failures").keys() == {
        f"test_outcomes.py::{name}" for name in ("test_fails[3-cupy-x]", "test_errors")
    }
    assert found == {
        "complete": True,
        "passed": 4,
        "failed": 1,
        "skipped": 1,
        "errors": 1,
        "device": {"passed": 2, "failed": 1, "skipped": 0, "errors": 0},
    }


def test_a_file_that_cannot_be_imported_is_an_error(tmp_path):
    tests, counts = tmp_path / "test_broken.py", tmp_path / "counts.json"
    tests.write_text("import no_such_module\n")
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "counting", str(tests)]
    more = {"GPUCOADD_COUNTS": str(counts), "PYTHONPATH": str(CHECKOUT / "benchmarks")}
    done = subprocess.run(words, check=False, capture_output=True, cwd=tmp_path, env=environment(**more))
    found = json.loads(counts.read_text())
    assert done.returncode == 2 and found["errors"] == 1 and not found["complete"]
    assert "no_such_module" in found["failures"]["test_broken.py"]
