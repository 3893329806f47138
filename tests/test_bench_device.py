"""benchmarks/bench_device.py: its checks see what is wrong, its targets are judged on a device only."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import rehearsal

from gpucoadd import bench_steps, benchmarking, primitives, timing
from gpucoadd.planes import Flags

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def script():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        yield importlib.import_module("bench_device")


def make_run(script, xp=np, word="cpu", **settings):
    options = {"size": 128, "epochs": 4, "repeats": 1, "seed": 1, "threads": 1, "patience": 5.0, "json": None}
    run = script.Run(argparse.Namespace(**options | settings), xp, word)
    run.record["copy"] = {"bytes_per_second": 1e9}
    return run


@pytest.fixture(scope="module")
def shared(script):
    """A run whose pixels several tests look at and none changes."""
    return make_run(script)


def test_everything_on_a_device(script, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(timing, "_SMALLEST_COPY", 1 << 16)
    file = tmp_path / "record.json"
    words = ["--device", "cuda", "--size", "64", "--epochs", "3", "--repeats", "1", "--threads", "1"]
    groups = "statistics,search,whole"
    monkeypatch.setattr(sys, "argv", ["bench_device.py", *words, "--only", groups, "--json", str(file)])
    with rehearsal.device():
        assert script.main() == 0, capsys.readouterr().err
    record = json.loads(file.read_text())
    assert record["complete"] and not record["failed"] and record["note"] == ""
    untimed = {"weights", "interpolation"}  # `gpucoadd bench` has them
    assert {step.name for step in bench_steps.STEPS if step.of_stack} - untimed <= set(record["results"])
    judged = {target["what"]: target["met"] for target in record["targets"] if target["bound"] is not None}
    assert judged.pop("coadd, seconds (30 epochs of 4200 x 4200)") is None  # the time is for that many pixels
    assert None not in judged.values()


def test_from_host_memory(script, monkeypatch):
    with rehearsal.device() as cupy:
        run = make_run(script, cupy, "cuda:0", size=64, epochs=3)
        script.make_pixels(run)
        run.bench.threads = 1
        script.from_host(run)
    assert [target["what"] for target in run.record["targets"]] == [
        "end to end, streamed / upload",
        "end to end, upload first / upload",
    ]
    assert run.record["results"]["upload of both stacks, pinned"]["bytes_over_bus"] == 24 * 3 * 64 * 64


def test_decorrelation_on_a_device(script):
    with rehearsal.device() as cupy:
        run = make_run(script, cupy, "cuda:0", size=64)
        script.fourier(run)
    assert {"decorrelate", "decorrelate in cells", "FFT pair, single"} <= set(run.record["results"])
    assert set(run.record["skipped"]) == {"sfft"}


def test_a_group_that_fails_leaves_the_others(script, tmp_path, monkeypatch, capsys):
    file = tmp_path / "record.json"
    seen = []

    def broken(run):
        seen.append(json.loads(file.read_text())["copy"])
        raise AssertionError("medians differ\nin 3 pixels")

    monkeypatch.setattr(timing, "_SMALLEST_COPY", 1 << 16)
    monkeypatch.setitem(script.GROUPS, "statistics", broken)
    words = ["--device", "cpu", "--size", "64", "--epochs", "3", "--only", "statistics,search", "--json", str(file)]
    monkeypatch.setattr(sys, "argv", ["bench_device.py", *words])
    assert script.main() == 1
    record = json.loads(file.read_text())
    assert record["failed"] == {"statistics": "AssertionError: medians differ in 3 pixels"}
    assert "label" in record["results"] and record["complete"]
    assert seen[0]["bytes_per_second"] > 0  # what came before was written by then
    assert "FAILED: statistics" in capsys.readouterr().err


def test_pixels_that_do_not_fit_are_not_made(script, monkeypatch):
    """Both stacks are in pinned memory too, 24 bytes a sample; on the device again, or the peers' temporaries."""
    n_samples, n_pixels = 3 * 64 * 64, 64 * 64
    on_host, on_device = 24 * n_samples + 100 * n_pixels, (32 + 24) * n_samples + 200 * n_pixels
    monkeypatch.setattr(script, "make_pixels", None)
    monkeypatch.setattr(script, "speeds", lambda run: 1 / 0)  # what comes next
    words = ["--device", "cuda", "--size", "64", "--epochs", "3", "--threads", "1"]
    monkeypatch.setattr(sys, "argv", ["bench_device.py", *words])
    for short_host, short_device, error, message in (
        (1, 0, ValueError, "of host memory"),
        (0, 1, ValueError, "of device memory"),
        (0, 0, ZeroDivisionError, "division by zero"),
    ):
        free = {True: on_host - short_host, False: on_device - short_device}
        monkeypatch.setattr(benchmarking, "room", lambda xp, free=free: free[xp is np])
        with rehearsal.device(), pytest.raises(error, match=message):
            script.main()


def test_pixels_and_peers_on_the_host(script, shared):
    assert script.more_bytes(shared) == (16 * shared.bench.n_samples, 0)


def test_unknown_group(script, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["bench_device.py", "--only", "search,lunch"])
    with pytest.raises(SystemExit):
        script.main()
    assert "no group 'lunch'; there are statistics, search" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("relation", "value", "met"),
    [("at least", 0.8, True), ("at least", 0.7, False), ("at most", 0.7, True), ("at most", 0.8, False)],
)
def test_targets(script, relation, value, met):
    for word, judged, expected in (("cuda:0", True, met), ("cuda:0", False, None), ("cpu", True, None)):
        run = make_run(script, object() if word != "cpu" else np, word)
        run.target("a share", value, relation, 0.75, judged=judged)
        run.target("a figure", value, relation, None)
        first, second = run.record["targets"]
        assert first == {"what": "a share", "value": value, "relation": relation, "bound": 0.75, "met": expected}
        assert second["met"] is None


def test_peers_are_compared_with_ours(script):
    run = make_run(script)
    run.peer("slow", lambda: None, "ours", 1e-9)
    (line,) = run.record["targets"]
    assert line["what"] == "slow / ours" and line["bound"] == script.PEER
    assert line["value"] == pytest.approx(run.record["results"]["slow"]["seconds"]["median"] / 1e-9)


# ------------------------------------------------------------------------------------------------ what is wrong is seen


def test_array_clip_is_sigma_clipping(script):
    rng = np.random.default_rng(1)
    values = rng.normal(10, 1, (25, 3, 4))
    values[rng.random(values.shape) < 0.1] += 50
    values[0, 0, 0] = np.nan
    expected = np.empty((3, 4))
    for y in range(3):
        for x in range(4):
            kept = [v for v in values[:, y, x] if v == v]
            for _ in range(2):
                centre, width = np.median(kept), np.std(kept)
                kept = [v for v in kept if abs(v - centre) <= 2.5 * width]
            expected[y, x] = np.mean(kept)
    np.testing.assert_allclose(script.array_clip(np, values), expected)


@pytest.mark.parametrize(
    ("step", "change", "message"),
    [
        ("median", lambda image: image + 1.0, "median"),
        ("weighted mean", lambda image: image * 1.01, "weighted mean"),
        ("clipped mean", lambda image: image + 10.0, "clipped means differ by 10"),
        ("clipped mean", lambda image: np.where(np.arange(9) == 4, np.nan, image), "other pixels without data"),
    ],
)
def test_statistics_that_differ(script, step, change, message):
    image = np.linspace(90, 110, 9)
    script.agree(step, image, image * (1 + 1e-7))
    with pytest.raises(AssertionError, match=message):
        script.agree(step, change(image), image)


@pytest.mark.filterwarnings("ignore:All-NaN slice:RuntimeWarning", "ignore:Mean of empty:RuntimeWarning")
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning", "ignore:Degrees of freedom:RuntimeWarning")
def test_a_wrong_median(script, shared, monkeypatch):
    right = bench_steps.stack

    def stack(*planes, **options):
        result = right(*planes, **options)
        result.image[3, 5] += 0.5
        return result

    script.statistics_of_stack(shared)
    monkeypatch.setattr(bench_steps, "stack", stack)
    with pytest.raises(AssertionError, match="gpucoadd, median"):
        script.statistics_of_stack(shared)


def test_wrong_labels(script, shared, monkeypatch):
    planes = [flags.planes() for flags in shared.bench.grown]
    script.check_labels(shared, planes)
    right = primitives.label

    def label(flags):
        pixels, labels, n = right(flags)
        return pixels, np.where(labels == n, 1, labels).astype(np.int32), n

    monkeypatch.setattr(primitives, "label", label)
    with pytest.raises(AssertionError, match="areas"):
        script.check_labels(shared, planes)


def test_wrong_significance(script):
    run = make_run(script)
    script.check_significance(run)
    detected = [Flags(flags.data.copy(), flags.n_columns) for flags in run.bench.detected]
    detected[1].data[0, 20:30, 20:30] ^= True
    run.bench.detected = detected
    with pytest.raises(AssertionError, match="significant pixels differ from array code"):
        script.check_significance(run)
    run.bench.detected = [Flags(np.zeros_like(flags.data), flags.n_columns) for flags in detected]
    with pytest.raises(AssertionError, match="nothing significant was found"):
        script.check_significance(run)


def test_a_coadd_that_keeps_trails(script, shared):
    script.check_coadd(shared, script.gpucoadd.coadd(shared.bench.warps, threads=1))
    blind = script.gpucoadd.CoaddConfig.from_names({"detection.threshold": 1e6})
    with pytest.raises(AssertionError, match="of a planted trail was clipped"):
        script.check_coadd(shared, script.gpucoadd.coadd(shared.bench.warps, config=blind, threads=1))


def test_a_decorrelation_that_does_nothing(script, shared, monkeypatch):
    script.check_decorrelation(shared)
    monkeypatch.setattr(script.gpucoadd, "decorrelate", lambda *images, **options: images[2])
    with pytest.raises(AssertionError, match="whole: correlation of neighbours"):
        script.check_decorrelation(shared)
