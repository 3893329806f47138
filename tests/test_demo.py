"""The demo measures what it says, and its report stands alone."""

import dataclasses
import html.parser
import re
import xml.etree.ElementTree
from types import SimpleNamespace

import numpy as np
import pytest

import gpucoadd
from gpucoadd import demo, difference_report, report, simulate, streak_report, whiteness
from gpucoadd.difference_scene import simulate_difference
from gpucoadd.fits import read_image
from gpucoadd.images import MaskedImage


@pytest.fixture(scope="module")
def night():
    return simulate.simulate_night(n_epochs=5, shape=(160, 160), seed=2)


def weighted_mean(night, used):
    """Coadd of the pixels `used`, with what the measurements ask of one."""
    weights = 1 / night.noise**2
    w = weights[:, np.newaxis, np.newaxis] * used
    total = np.maximum(w.sum(axis=0), 1e-30)
    empty = w.sum(axis=0) == 0
    image = np.where(empty, np.nan, (w * np.nan_to_num(night.warps.image)).sum(axis=0) / total)
    variance = np.where(empty, np.inf, (w**2 * np.nan_to_num(night.warps.variance)).sum(axis=0) / total**2)
    ones = np.ones(image.shape, dtype=np.int32)
    return SimpleNamespace(
        image=image, variance=variance, weights=weights, epoch_count=4 * ones, n_image_matched=5 * ones,
        template=SimpleNamespace(image=night.sky),
    )  # fmt: skip


@pytest.fixture(scope="module")
def perfect(night):
    """Coadds of a search that clips every pixel with planted flux, and of one that clips nothing."""
    schema = night.warps.schema
    good = night.warps.mask & schema.bitmask(*demo.REJECTED) == 0
    seen = night.warps.psf_matched.mask & schema.bitmask("NO_DATA") == 0
    clipped = night.planted > 0.01
    return weighted_mean(night, good & seen & ~clipped), weighted_mean(night, good), clipped


def test_perfect_search_measures_as_perfect(night, perfect):
    coadd, plain, clipped = perfect
    measured = demo.measure(night, coadd, plain, clipped, kept=range(5))
    assert [found.kind for found in measured.found] == list(night.truth)
    for found in measured.found:
        assert found.n_pixels > 0
        assert found.pixels == 1.0
        assert found.flux == pytest.approx(1.0)
    assert measured.n_false == 0
    assert measured.noise[0] == pytest.approx(1.0, abs=0.03)
    assert measured.noise_core[0] == pytest.approx(1.0, abs=0.03)
    assert measured.noise[1] > 1.2
    assert measured.variable_stars
    for star in measured.variable_stars:
        assert star.coadd == pytest.approx(1.0, abs=0.03)
        assert star.change > 0.4


def test_search_that_finds_nothing_measures_as_nothing(night, perfect):
    _, plain, clipped = perfect
    measured = demo.measure(night, plain, plain, np.zeros_like(clipped), kept=range(5))
    assert {found.pixels for found in measured.found} == {0.0}
    assert {found.flux for found in measured.found} == {0.0}


def test_clipping_empty_sky_counts_as_false(night, perfect):
    coadd, plain, _ = perfect
    measured = demo.measure(night, coadd, plain, np.ones(night.warps.shape, dtype=bool), kept=range(5))
    assert measured.false_fraction == 1.0


def test_clipped_variable_star_loses_flux(night, perfect):
    _, plain, clipped = perfect
    schema = night.warps.schema
    good = night.warps.mask & schema.bitmask(*demo.REJECTED) == 0
    star = night.variable_stars[1]
    y, x = np.mgrid[:160, :160]
    near = np.hypot(y - star["y"], x - star["x"]) < 12
    bright = star["flux"] > star["flux"].mean()
    spoiled = weighted_mean(night, good & ~clipped & ~(near & bright[:, np.newaxis, np.newaxis]))
    measured = demo.measure(night, spoiled, plain, clipped, kept=range(5))
    kept = min(s.coadd for s in measured.variable_stars if abs(s.y - star["y"]) < 1)
    assert kept < 0.9


def test_table_says_when_nothing_was_planted(perfect):
    night = simulate.simulate_night(n_epochs=5, shape=(160, 160), seed=2, trail_fraction=0)
    coadd, plain, clipped = perfect
    rows = demo.table_rows(demo.measure(night, coadd, plain, clipped, kept=range(5)))
    assert {row[1] for row in rows if row[0].startswith("trail")} == {"none planted"}
    assert all(len(row) == 3 for row in rows)


def test_report_stands_alone(night, perfect, tmp_path):
    coadd, plain, clipped = perfect
    path = report.write_report(
        tmp_path / "report.html", night=night, coadd=coadd, plain=plain, clipped=clipped,
        rows=[("a < b", "1 %", "")], facts={"seed": "2"},
    )  # fmt: skip
    page = path.read_text()
    html.parser.HTMLParser().feed(page)
    assert page.count("data:image/png;base64,") == 12
    assert "a &lt; b" in page
    assert "http" not in re.sub(r"base64,[^\"]*", "", page)
    assert "<script" not in page
    assert list(tmp_path.iterdir()) == [path]


@pytest.fixture(scope="module")
def difference():
    """A scene, what perfect decorrelation makes of it, and what is measured on the two."""
    scene = simulate_difference(shape=(160, 160), seed=2)
    noise = np.random.default_rng(1).normal(0.0, np.sqrt(300.0), (160, 160))
    image, variance = (scene.expected + noise).astype(np.float32), np.full((160, 160), 300.0, dtype=np.float32)
    white = MaskedImage(image, variance, scene.difference.mask, schema=scene.difference.schema)
    return scene, white, whiteness.measure_difference(scene, white)


def test_section_about_a_difference_stands_alone(night, perfect, difference, tmp_path):
    coadd, plain, clipped = perfect
    section = difference_report.difference_section(*difference)
    assert section.count("data:image/png;base64,") == 8
    page = report.write_report(
        tmp_path / "report.html", night=night, coadd=coadd, plain=plain, clipped=clipped, rows=[], facts={},
        sections=[section],
    ).read_text()  # fmt: skip
    html.parser.HTMLParser().feed(page)
    assert section in page
    bare = re.sub(r"base64,[^\"]*", "", page)
    assert not re.search(r"http|<script|<link|url\(|src=\"(?!data:)", bare)
    for what, before, after in whiteness.difference_rows(difference[2]):
        assert f"<td>{what}</td><td>{before}</td><td>{after}</td>" in page
    for change in difference[0].changes:
        assert f"<td>{change['kind']}, {change['flux']:+.0f} nJy</td>" in page


def test_plot_shows_the_spectra(difference):
    spectra = difference[2].spectra
    plot = xml.etree.ElementTree.fromstring(difference_report.spectrum_plot(spectra))
    _, _, width, height = map(float, plot.get("viewBox").split())
    curves = {
        line.get("class"): np.array([point.split(",") for point in line.get("points").split()], dtype=float)
        for line in plot.iter("polyline")
    }
    ticks = [text.text for text in plot.iter("text")]
    assert ticks[:2] == ["0.0", "0.1"]
    assert "cycles per pixel" in ticks
    assert set(curves) == {"before", "after", "expected"}
    for name, points in curves.items():
        power = getattr(spectra, name)
        assert ((points > 0) & (points < (width, height))).all()
        # Straight axes: height on the page falls with power, in one ratio, to the tenth of a pixel that is written.
        slope, at_zero = np.polyfit(power, points[:, 1], 1)
        assert slope < 0
        assert np.abs(at_zero + slope * power - points[:, 1]).max() < 0.11
        slope, at_zero = np.polyfit(spectra.frequency, points[:, 0], 1)
        assert np.abs(at_zero + slope * spectra.frequency - points[:, 0]).max() < 0.11
    styles = {element.get("class") for element in plot.iter() if element.get("class")}
    assert all(f".{style}" in report._STYLE for style in styles)


@pytest.mark.parametrize("scale", [0.3, 1.0, 40.0, 3e6])
def test_plot_has_a_few_ticks_whatever_the_power(difference, scale):
    spectra = difference[2].spectra
    scaled = whiteness.Spectra(spectra.frequency, scale * spectra.before, spectra.after, scale * spectra.expected)
    plot = xml.etree.ElementTree.fromstring(difference_report.spectrum_plot(scaled))
    points = [point for line in plot.iter("polyline") for point in line.get("points").split()]
    assert all(float(point.split(",")[1]) >= 14 for point in points)
    assert 3 <= sum(text.get("text-anchor") == "end" for text in plot.iter("text")) <= 13


def test_report_without_a_transient_has_no_zoom(difference):
    scene = simulate_difference(shape=(128, 128), seed=2, n_transients=0)
    measured = whiteness.measure_difference(scene, scene.difference)
    section = difference_report.difference_section(scene, scene.difference, measured)
    assert section.count("data:image/png;base64,") == 6
    assert "A transient" not in section


def test_demo_finds_what_was_planted(tmp_path, capsys):
    pytest.importorskip("gpucoadd.cli")
    assert demo.run_demo(tmp_path / "demo", n_epochs=6, size=160, seed=1) == 0
    printed = capsys.readouterr().out
    shares = dict(re.findall(r"^([a-z ]+): pixels above 5 sigma clipped .*?([\d.]+) %", printed, flags=re.MULTILINE))
    assert float(shares["trail"]) > 95
    assert float(shares["moving object"]) > 70
    assert re.search(r"seconds +[\d.]+ reading", printed)
    assert (tmp_path / "demo" / "report.html").stat().st_size > 50_000
    assert len(list((tmp_path / "demo" / "artifact-masks").glob("*.fits"))) == 6
    check_difference(tmp_path / "demo", printed)


def check_difference(folder, printed):
    """What the demo says of its difference: the noise is white, and the page tells the same."""
    number = r"[+-]?[\d.]+"
    lag1 = rf"({number}) \+- ({number}) +({number}) \+- ({number})"
    before, before_error, after, error = map(
        float, re.search(rf"^correlation of direct neighbours +{lag1}$", printed, flags=re.MULTILINE).groups()
    )
    assert before > 4 * before_error
    assert abs(after) < 4 * error
    for what, lowest, highest in (
        ("variance of empty sky over the variance plane", 0.9, 1.1),
        ("scatter of a matched filter over what the variance plane says", 0.8, 1.2),
    ):
        found = re.search(rf"^{what} +({number}) +({number})$", printed, flags=re.MULTILINE)
        assert lowest < float(found[2]) < highest, what
    assert float(found[1]) > 1.15  # the filter's, before
    page = (folder / "report.html").read_text()
    assert "One difference, white noise again" in page
    assert '<svg class="plot"' in page
    assert f"{after:+.4f} +- {error:.4f}</td>" in page
    assert page.count("data:image/png;base64,") in (20, 23)  # a field this small may hide the faint trail
    assert "A trail that nobody sees" in page
    assert not re.search(r"http|<script|<link", re.sub(r"base64,[^\"]*", "", page))
    written = read_image(folder / "difference" / "decorrelated.fits", device="cpu")
    assert written.shape == (160, 160)
    assert np.isfinite(written.image).all()


@pytest.fixture(scope="module")
def faint():
    """A night with a trail that nobody sees, and its coadd."""
    night = simulate.simulate_night(n_epochs=6, shape=(256, 256), seed=4, trail_fraction=0, faint_trail=0.6)
    return night, gpucoadd.coadd(night.warps, config=gpucoadd.CoaddConfig(streaks=gpucoadd.StreakConfig()))


def test_section_about_the_faint_trail(faint):
    night, coadd = faint
    epoch = int(night.truth["faint trail"].any(axis=(1, 2)).argmax())
    (number,) = np.flatnonzero(~coadd.lines[epoch].persistent)
    section = streak_report.faint_trail_section(night, coadd, range(6))
    assert section.count("data:image/png;base64,") == 3
    assert f"found at {coadd.lines[epoch].z[number]:.1f} sigma" in section
    assert f"visit {night.warps.epochs[epoch]}, only 0.6 times" in section
    plot = xml.etree.ElementTree.fromstring(re.search(r"<svg.*</svg>", section)[0])
    dots = [(float(dot.get("cx")), float(dot.get("cy"))) for dot in plot.iter("circle")]
    profile = coadd.lines[epoch].profile[number]
    middle = profile[len(profile) // 2 - 24 : len(profile) // 2 + 25]
    assert len(dots) == 49
    slope, at_zero = np.polyfit(middle, [y for _, y in dots], 1)
    assert slope < 0
    assert np.abs(at_zero + slope * middle - [y for _, y in dots]).max() < 0.11
    styles = {element.get("class") for element in plot.iter() if element.get("class")}
    assert all(f".{style}" in report._STYLE for style in styles)


def test_section_says_when_the_faint_trail_was_missed(faint):
    night, coadd = faint
    epoch = int(night.truth["faint trail"].any(axis=(1, 2)).argmax())
    others = [e for e in range(6) if e != epoch]
    section = streak_report.faint_trail_section(night, coadd, others)
    assert "In this run it was not found" in section and "<img" not in section
    truth = {**night.truth, "faint trail": night.truth["faint trail"][:, ::-1]}
    elsewhere = dataclasses.replace(night, truth=truth)
    assert "In this run it was not found" in streak_report.faint_trail_section(elsewhere, coadd, range(6))
