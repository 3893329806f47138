"""What `gpucoadd bench` measures: the clock, the bytes, the pixels, the document, and that no step hides another."""

from __future__ import annotations

import json
import types

import numpy as np
import pytest
import rehearsal
from numpy.testing import assert_array_equal

import gpucoadd
from gpucoadd import bench_scene, bench_steps, benchmarking, cli, timing

SIZE, N_EPOCHS = 96, 4


@pytest.fixture(scope="module")
def field():
    return bench_scene.make_field(N_EPOCHS, 160, seed=3)


def tiny(**settings):
    """`benchmarking.run` on few pixels; gives its lines, its document, and how often that was handed out."""
    lines, kept = [], []
    options = {"device": "cpu", "size": SIZE, "n_epochs": N_EPOCHS, "repeats": 1, "threads": 1, "say": lines.append}
    document = benchmarking.run(**options | settings, keep=lambda d: kept.append(json.loads(json.dumps(d))))
    return lines, document, kept


# ------------------------------------------------------------------------------------------------ the clock


def test_first_call_is_told_apart(monkeypatch):
    clock = iter([0.0, 9.0, 10.0, 11.0, 20.0, 24.0, 30.0, 32.0])  # calls of 9, 1, 4, 2 seconds
    monkeypatch.setattr(timing.time, "perf_counter", lambda: next(clock))
    timings = timing.measure(lambda: None, np, repeats=3)
    assert timings == timing.Timings(9.0, [1.0, 4.0, 2.0], [1.0, 4.0, 2.0])
    assert timings.summary() == {"min": 1.0, "median": 2.0, "max": 4.0, "wall": 2.0, "first": 9.0, "n": 3}


@pytest.mark.parametrize(("patience", "n"), [(0.0, 1), (1.5, 2), (100.0, 5)])
def test_patience(monkeypatch, patience, n):
    clock = iter(range(100))  # every call takes a second
    monkeypatch.setattr(timing.time, "perf_counter", lambda: next(clock))
    assert len(timing.measure(lambda: None, np, repeats=5, patience=patience).seconds) == n


def test_a_device_is_idle_before_and_done_after():
    log = []

    class Event:
        def record(self):
            log.append(self)

    cuda = types.SimpleNamespace(
        Event=Event,
        Device=lambda: types.SimpleNamespace(synchronize=lambda: log.append("wait")),
        get_elapsed_time=lambda before, after: 250.0 if log[1::5] == [before] and log[3::5] == [after] else -1.0,
    )
    xp = types.SimpleNamespace(cuda=cuda)
    seconds, wall = timing._timed(lambda: log.append("call"), xp)
    assert [entry if isinstance(entry, str) else "event" for entry in log] == ["wait", "event", "call", "event", "wait"]
    assert seconds == 0.25  # milliseconds there, seconds here
    assert 0 < wall < 0.25


def test_copy_speed_counts_bytes_both_ways(monkeypatch):
    copied = []

    def measure(call, xp, *, repeats):
        call()
        return timing.Timings(1.0, [0.5] * repeats, [0.5] * repeats)

    monkeypatch.setattr(timing, "measure", measure)
    monkeypatch.setattr(np, "copyto", lambda target, source: copied.append((target.nbytes, source.nbytes)))
    speed = timing.copy_speed(np, repeats=2, like=1)
    n = timing._SMALLEST_COPY
    assert copied == [(n, n)]
    assert speed["bytes"] == 2 * n and speed["bytes_per_second"] == 4 * n


def test_copies_stay_small_where_memory_is_short(monkeypatch):
    monkeypatch.setattr(timing, "room", lambda xp: 1 << 20)
    assert timing.copy_speed(np, repeats=1)["bytes"] == 2 << 17


def test_transfers_go_both_ways_from_both_memories(monkeypatch):
    monkeypatch.setattr(timing, "_SMALLEST_COPY", 1 << 16)
    with rehearsal.device() as cupy:
        found = timing.transfer_speeds(cupy, repeats=1, like=1)
    assert sorted(found) == ["download, pageable", "download, pinned", "upload, pageable", "upload, pinned"]
    assert {speed["bytes"] for speed in found.values()} == {1 << 16}


# ------------------------------------------------------------------------------------------------ the bytes

# Gigabytes for 30 epochs of 4200 x 4200 on a device, added up by hand: 529.2 million samples, 17.64 million pixels.
BYTES = {
    "weights": 4.234,  # 8 a sample
    "clipped mean": 6.562,  # 12 a sample, 12 a pixel
    "median": 6.562,
    "weighted mean": 6.562,
    "significance": 6.827,  # 12 and four bits a sample, 12 a pixel
    "grow": 0.1323,  # two bits a sample
    "label": 2.646,  # 5 a sample
    "epoch count": 0.1367,  # a bit a sample, 4 a pixel
    "find_artifacts": 6.902,  # 12 and three bits a sample, 20 a pixel
    "coadd": 13.675,  # 24 and three bits a sample, 44 a pixel
    "find_streaks": 0.1588,  # 9 a pixel
    "interpolation": 0.4234,  # 24 a pixel
    "FFT pair": 1.129,  # 64 a pixel
    "decorrelate": 1.341,  # 76 a pixel
    "decorrelate in cells": 1.341,
    "FFT pair, single": 0.5645,  # 32 a pixel
    "decorrelate, single": 0.7762,  # 44 a pixel
}


def test_floors():
    bench = bench_steps.Bench(object(), size=4200, n_epochs=30, seed=1, threads=1)
    found = {step.name: step.floor.of(bench) / 1e9 for step in bench_steps.STEPS}
    assert found == pytest.approx(BYTES, rel=1e-3)


def test_flags_are_bytes_on_the_host_where_they_are_worked_on():
    floor = bench_steps.Floor(flags=1, bits=1)
    on_host = bench_steps.Bench(np, size=8, n_epochs=2, seed=1, threads=1)
    on_device = bench_steps.Bench(object(), size=8, n_epochs=2, seed=1, threads=1)
    assert floor.of(on_host) == 128 + 16 and floor.of(on_device) == 16 + 16


def test_groups_hold_all_epochs_and_fit_int32():
    on_device = bench_steps.Bench(object(), size=20_000, n_epochs=12, seed=1, threads=1)
    assert on_device.groups == [slice(0, 5), slice(5, 10), slice(10, 12)]
    on_host = bench_steps.Bench(np, size=20_000, n_epochs=2, seed=1, threads=1)
    assert on_host.groups == [slice(0, 1), slice(1, 2)]


# ------------------------------------------------------------------------------------------------ the pixels


def test_same_seed_same_pixels(field):
    again = bench_scene.make_field(N_EPOCHS, 160, seed=3)
    other = bench_scene.make_field(N_EPOCHS, 160, seed=4)
    assert_array_equal(again.warps.image, field.warps.image)
    assert_array_equal(again.warps.psf_matched.variance, field.warps.psf_matched.variance)
    assert not np.array_equal(other.warps.image, field.warps.image, equal_nan=True)


@pytest.mark.parametrize("twins", [False, True])
def test_noise_is_what_the_variance_says(field, twins):
    warps = field.warps.psf_matched if twins else field.warps
    empty = field.sky < 1.0  # beyond the reach of any star, and seen nowhere through the wider PSF
    image = np.where(empty & (warps.mask == 0), warps.image, np.nan)
    scaled = image / np.sqrt(warps.variance)
    for trail in field.trails:
        scaled[trail.epoch, trail.distance(160) < 20] = np.nan
    quartiles = np.nanpercentile(scaled, (25, 75), axis=(1, 2))  # of which cosmic rays do not matter
    np.testing.assert_allclose((quartiles[1] - quartiles[0]) / 1.349, 1.0, atol=0.05)
    no_data = (warps.mask & warps.schema.bitmask("NO_DATA")) != 0
    assert_array_equal(np.isnan(warps.image), no_data)
    assert_array_equal(np.isnan(warps.variance), no_data)
    inside = (slice(None), slice(20, -20), slice(20, -20))  # of the borders
    assert no_data[inside].all(axis=0).sum() > 100  # there is work for the interpolation
    assert (warps.variance[~np.isnan(warps.image)] > 0).all()


def test_epochs_have_noise_of_their_own(field):
    empty = (field.sky < 1.0) & (field.warps.mask == 0)
    noise = np.where(empty, field.warps.image, 0).clip(-30, 30)
    together = np.corrcoef(noise.reshape(N_EPOCHS, -1))
    assert np.abs(together - np.eye(N_EPOCHS)).max() < 0.1


def test_trails_are_found_and_the_sky_is_kept(field):
    coadd = gpucoadd.coadd(field.warps, threads=1)
    assert [trail.epoch for trail in field.trails] == [0, 3]
    for trail in field.trails:
        seen = np.isfinite(field.warps.psf_matched.image[trail.epoch])
        assert coadd.clipped[trail.epoch][(trail.distance(160) < 2) & seen].mean() > 0.8
    assert coadd.clipped.mean() < 0.1
    assert abs(np.nanmedian(coadd.image - field.sky)) < 1.0
    filled = (coadd.mask & coadd.schema.bitmask("INTRP")) != 0
    assert 0 < filled.mean() < 0.2


def test_difference_is_whitened():
    scene = bench_scene.make_difference(160, seed=2)
    clean = scene.difference.mask == 0

    def correlation(image):
        both = clean[:, 1:] & clean[:, :-1]
        return (image[:, 1:] * image[:, :-1])[both].mean() / (image**2)[clean].mean()

    assert correlation(scene.difference.image) > 0.05
    assert abs(correlation(gpucoadd.decorrelate(*scene.whole).image)) < 0.02


def test_scenes_on_a_device_are_those_of_the_host(field):
    with rehearsal.device() as cupy:
        there = bench_scene.make_field(N_EPOCHS, 160, seed=3, xp=cupy)
        assert isinstance(there.warps.mask, cupy.ndarray)
        assert_array_equal(there.warps.image.get(), field.warps.image)
        assert_array_equal(there.warps.psf_matched.mask.get(), field.warps.psf_matched.mask)
        scene = bench_scene.make_difference(96, seed=2, xp=cupy)
        assert_array_equal(scene.template.image.get(), bench_scene.make_difference(96, seed=2).template.image)


# ------------------------------------------------------------------------------------------------ the run


def test_every_step_on_the_host():
    lines, document, kept = tiny()
    assert document["complete"] and document["device"] == "cpu"
    assert list(document["steps"]) == [step.name for step in bench_steps.STEPS]
    assert document["settings"] == {"size": SIZE, "epochs": N_EPOCHS, "repeats": 1, "seed": 1, "threads": 1}
    assert document["versions"]["gpucoadd"] == gpucoadd.__version__
    assert document["versions"]["numpy"] == np.__version__
    assert ["device"] == [name for name, _ in document["facts"] if name == "device"]
    assert document["transfers"] == {}
    for step in bench_steps.STEPS:
        line = document["steps"][step.name]
        seconds = line["seconds"]["median"]
        assert 0 < line["seconds"]["min"] <= seconds <= line["seconds"]["max"]
        assert line["bytes_per_second"] == pytest.approx(line["floor_bytes"] / seconds)
        assert line["share_of_copy"] == pytest.approx(line["bytes_per_second"] / document["copy"]["bytes_per_second"])
        assert line["pixels_per_second"] == pytest.approx(SIZE**2 / seconds)
        n = SIZE**2 * (N_EPOCHS if step.of_stack else 1)
        assert line["samples_per_second"] == pytest.approx(n / seconds)
        assert any(text.startswith(step.name) for text in lines)
    assert [len(one["steps"]) for one in kept] == [*range(len(bench_steps.STEPS) + 1), len(bench_steps.STEPS)]
    assert [one["complete"] for one in kept] == [False] * (len(kept) - 1) + [True]


def test_every_step_on_a_device(monkeypatch):
    monkeypatch.setattr(timing, "_SMALLEST_COPY", 1 << 16)
    with rehearsal.device():
        _, document, _ = tiny(device="cuda", size=64, n_epochs=3)
    assert document["complete"] and document["device"] == "cuda:0"
    assert len(document["transfers"]) == 4
    assert list(document["steps"]) == [step.name for step in bench_steps.STEPS]


def test_each_call_does_what_its_line_says():
    bench = bench_steps.Bench(np, size=SIZE, n_epochs=N_EPOCHS, seed=1, threads=1)
    calls = {step.name: step.build(bench) for step in bench_steps.STEPS}
    counted = calls["epoch count"]()
    painted = sum(flags.planes()[0].astype(np.int32) for flags in bench.grown)
    assert_array_equal(counted, painted)
    assert 0 < counted.mean() < 1
    significant, grown = (np.concatenate([f.planes() for f in flags]) for flags in (bench.detected, bench.grown))
    assert significant.sum() < grown.sum() and (grown | ~significant).all()
    warps = bench.warps
    weights = np.linspace(0.5, 1.5, N_EPOCHS)
    for name, statistic in (("clipped mean", "MEANCLIP"), ("median", "MEDIAN"), ("weighted mean", "MEAN")):
        planes = warps.image, warps.variance, warps.mask, weights
        wanted = gpucoadd.stack(*planes, statistic=statistic, reject=["NO_DATA", "BAD", "SAT"], schema=warps.schema)
        assert_array_equal(calls[name]().image, wanted.image)
    options = {"sigma_clip": 1.5, "clip_iterations": 1}
    wanted = gpucoadd.stack(*planes, statistic="MEANCLIP", reject=bench_steps.REJECT, schema=warps.schema, **options)
    assert_array_equal(bench_steps.stacking(bench, "MEANCLIP", **options)().image, wanted.image)
    coadd = gpucoadd.coadd(warps, threads=1)
    assert_array_equal(calls["coadd"]().image, coadd.image)
    assert_array_equal(calls["find_artifacts"]().clipped, coadd.artifacts.clipped)
    assert len(calls["weights"]().weights) == N_EPOCHS
    assert calls["find_streaks"]().shape == (SIZE, SIZE)
    before, (image, _, mask) = (
        gpucoadd.stack(*planes, statistic="MEAN", reject=["NO_DATA"], schema=warps.schema),
        calls["interpolation"](),
    )
    assert np.isnan(before.image).any() and np.isfinite(image).all() and (mask & warps.schema.bitmask("INTRP")).any()
    for precision in ("", ", single"):
        padded = calls[f"FFT pair{precision}"]()
        image = bench.difference.difference.image
        np.testing.assert_allclose(padded[:SIZE, :SIZE], image, atol=1e-3)
        corrected = calls[f"decorrelate{precision}"]()
        assert corrected.fft_shape == padded.shape
        assert corrected.config.precision == precision.removeprefix(", ") or precision == ""
    assert padded.dtype == np.float32
    assert calls["decorrelate in cells"]().cells is not None


def test_primitives_get_what_a_search_gives_them(monkeypatch):
    bench = bench_steps.Bench(np, size=SIZE, n_epochs=N_EPOCHS, seed=1, threads=1)
    wanted = {"grow": bench.detected, "label": bench.grown}
    for name, flags in wanted.items():
        seen = []
        monkeypatch.setattr(bench_steps.primitives, name, lambda given, *more, seen=seen, **options: seen.append(given))
        next(step for step in bench_steps.STEPS if step.name == name).build(bench)()
        assert len(seen) == N_EPOCHS and all(one is other for one, other in zip(seen, flags, strict=True))


def test_only_the_pixels_that_are_asked_for_are_made(monkeypatch):
    monkeypatch.setattr(bench_steps, "make_field", None)
    _, document, _ = tiny(steps="fft-pair,decorrelate-single")
    assert list(document["steps"]) == ["FFT pair", "decorrelate, single"]
    monkeypatch.undo()
    monkeypatch.setattr(bench_steps, "make_difference", None)
    _, document, _ = tiny(steps="Grow, median")
    assert list(document["steps"]) == ["median", "grow"]


def test_a_step_that_fails_does_not_stop_the_others():
    def build(bench):
        return lambda: np.zeros(2) + np.zeros(3)

    steps = (bench_steps.STEPS[0], bench_steps.Step("broken", bench_steps.Floor(), build), bench_steps.STEPS[1])
    lines, kept = [], []
    with pytest.MonkeyPatch.context() as patch, pytest.raises(ValueError, match="could not be broadcast"):
        patch.setattr(benchmarking, "STEPS", steps)
        benchmarking.run(device="cpu", size=SIZE, n_epochs=2, repeats=1, threads=1, say=lines.append, keep=kept.append)
    assert list(kept[-1]["steps"]) == ["weights", "broken", "clipped mean"]
    assert kept[-1]["steps"]["broken"]["failed"].startswith("ValueError: operands could not be broadcast")
    assert "seconds" in kept[-1]["steps"]["clipped mean"] and not kept[-1]["complete"]
    assert any(line.startswith("broken") and "failed: ValueError" in line for line in lines)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": "coad"}, "no step 'coad'; there are weights, clipped-mean"),
        ({"steps": " , "}, "no step is named"),
        ({"size": 63}, "--size must be at least 64 pixels, got 63"),
        ({"device": "tpu"}, "device must be"),
        ({"threads": 0}, "threads must be"),
    ],
)
def test_what_cannot_be_asked_for(settings, message):
    with pytest.raises(ValueError, match=message):
        tiny(**settings)


def test_pixels_that_do_not_fit_are_not_begun(monkeypatch):
    monkeypatch.setattr(benchmarking, "_speeds", None)  # what comes next
    with pytest.raises(
        ValueError, match=r"--size 60000 with --epochs 900 takes about .* GiB of host memory and .* free"
    ):
        tiny(size=60_000, n_epochs=900)
    with rehearsal.device() as cupy:
        cupy.cuda.runtime.memGetInfo = lambda: (1 << 20, 1 << 34)
        with pytest.raises(ValueError, match=r"of device memory and 0\.0 GiB are free"):
            tiny(device="cuda", size=512)


def test_what_is_needed_besides_counts(monkeypatch):
    bench = bench_steps.Bench(np, size=100, n_epochs=10, seed=1, threads=1)
    needed, _ = benchmarking.bytes_needed(bench, bench_steps.STEPS)
    monkeypatch.setattr(benchmarking, "room", lambda xp: needed + 10)
    benchmarking.check_room(bench, bench_steps.STEPS, more=(10, 11))
    with pytest.raises(ValueError, match="of host memory"):
        benchmarking.check_room(bench, bench_steps.STEPS, more=(11, 0))
    bench.xp = object()
    on_host, on_device = benchmarking.bytes_needed(bench, bench_steps.STEPS)
    monkeypatch.setattr(benchmarking, "room", lambda xp: on_host + 10 if xp is np else on_device + 20)
    benchmarking.check_room(bench, bench_steps.STEPS, more=(10, 20))
    with pytest.raises(ValueError, match="of host memory"):
        benchmarking.check_room(bench, bench_steps.STEPS, more=(11, 20))
    with pytest.raises(ValueError, match="of device memory"):
        benchmarking.check_room(bench, bench_steps.STEPS, more=(10, 21))


# ------------------------------------------------------------------------------------------------ the command


def test_the_command_writes_what_it_prints(tmp_path, capsys):
    file = tmp_path / "bench.json"
    file.write_text("an older result")
    words = ["--size", "64", "--epochs", "3", "--repeats", "1", "--steps", "grow,fft-pair", "--device", "cpu"]
    assert cli.main(["bench", *words, "--threads", "1", "--json", str(file)]) == 0
    said = capsys.readouterr().out
    document = json.loads(file.read_text())
    assert document["complete"] and list(document["steps"]) == ["grow", "FFT pair"]
    assert [path.name for path in tmp_path.iterdir()] == ["bench.json"]
    for word in ("GB/s, read and written", "of copy", "grow", "FFT pair", f"wrote         {file}"):
        assert word in said


def test_what_was_measured_before_an_interrupt_is_kept(tmp_path, monkeypatch, capsys):
    def interrupted(bench):
        raise KeyboardInterrupt

    steps = (bench_steps.STEPS[0], bench_steps.Step("later", bench_steps.Floor(), interrupted))
    monkeypatch.setattr(benchmarking, "STEPS", steps)
    file = tmp_path / "bench.json"
    words = ["--size", "64", "--epochs", "2", "--repeats", "1", "--device", "cpu", "--json", str(file)]
    assert cli.main(["bench", *words]) == 130
    document = json.loads(file.read_text())
    assert list(document["steps"]) == ["weights"] and not document["complete"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--size", "8"], "--size must be at least 64"),
        (["--size", "0"], "--size must be positive"),
        (["--epochs", "-2"], "--epochs must be positive"),
        (["--repeats", "0"], "--repeats must be positive"),
        (["--threads", "0"], "--threads must be positive"),
        (["--seed", "-1"], "--seed must be 0 or more, got -1"),
        (["--steps", "nothing"], "no step 'nothing'"),
        (["--device", "tpu"], "device must be"),
        (["--size", "60000", "--epochs", "900"], "GiB are free; give less of either"),
        (["--json", "{folder}/no/such/file.json"], "make it first"),
        (["--json", "{folder}"], "it is a folder"),
    ],
)
def test_mistakes_are_one_line(words, message, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(benchmarking, "_speeds", None)  # none gets that far
    words = [word.format(folder=tmp_path) for word in words]
    device = [] if "--device" in words else ["--device", "cpu"]
    assert cli.main(["bench", *words, *device]) == 2
    said = capsys.readouterr()
    assert said.err.startswith("gpucoadd: error: ") and said.err.count("\n") == 1 and message in said.err
    assert said.out == "" and not list(tmp_path.iterdir())


def test_a_document_is_whole_at_any_moment(tmp_path, monkeypatch):
    file = tmp_path / "bench.json"
    benchmarking.save({"steps": 1}, file)
    monkeypatch.setattr(benchmarking.json, "dump", lambda *args, **kwargs: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        benchmarking.save({"steps": 2}, file)
    assert json.loads(file.read_text()) == {"steps": 1}
