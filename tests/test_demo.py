"""The demo measures what it says, and its report stands alone."""

import html.parser
import re
from types import SimpleNamespace

import numpy as np
import pytest

from gpucoadd import demo, report, simulate


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
