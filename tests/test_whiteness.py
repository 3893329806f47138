"""What is measured on a difference has the value it must have where the answer is known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from gpucoadd.difference_scene import simulate_difference
from gpucoadd.images import MaskedImage
from gpucoadd.simulate import point_source
from gpucoadd.whiteness import THRESHOLD, difference_rows, interior, matched_filter, measure_difference


@pytest.fixture(scope="module")
def scene():
    return simulate_difference(shape=(300, 320), seed=3)


def masked_image(scene, image, variance):
    variance = np.full(scene.science.shape, variance, dtype=np.float32)
    return MaskedImage(image.astype(np.float32), variance, scene.difference.mask, schema=scene.difference.schema)


@pytest.fixture(scope="module")
def white(scene):
    """White noise of the right variance on the noise-free difference."""
    noise = np.random.default_rng(11).normal(0.0, np.sqrt(300.0), scene.science.shape)
    return masked_image(scene, scene.expected + noise, 300.0)


@pytest.fixture(scope="module")
def measured(scene, white):
    return measure_difference(scene, white)


def test_white_noise_measures_as_white(measured):
    noise = measured.noise[1]
    assert abs(noise.lag1) < 4 * noise.lag1_error
    assert noise.variance == pytest.approx(1.0, abs=4 * np.sqrt(2 / noise.n_pixels))
    assert measured.share[1] == pytest.approx(1.0, abs=0.03)
    assert measured.filtered[1] == pytest.approx(1.0, abs=0.06)
    assert measured.n_false[1] == 0
    assert np.mean(measured.spectra.after) == pytest.approx(1.0, abs=0.03)
    assert np.abs(measured.spectra.after - 1).max() < 0.5


def test_difference_measures_as_its_kernel_makes_it(measured):
    noise = measured.noise[0]
    assert noise.lag1 > 10 * noise.lag1_error
    assert noise.variance == pytest.approx(1.0, abs=0.03)
    assert measured.share[0] < 0.5
    assert measured.filtered[0] > 1.25
    frequency, before, expected = (getattr(measured.spectra, k) for k in ("frequency", "before", "expected"))
    assert ((np.diff(frequency) > 0) & (frequency[:-1] > 0)).all()
    assert frequency[-1] < 0.5
    # a ring of width 0.02 has pi f 0.02 n independent modes, a third of them left by the window
    scatter = expected / np.sqrt(np.pi * frequency * 0.02 * 300 * 320 / 3)
    assert (np.abs(before - expected) < 5 * scatter).all()
    assert expected[0] > 2
    assert expected[-1] < 1


def test_power_of_a_wave_is_at_its_frequency(scene):
    x = np.arange(320)
    wave = np.cos(2 * np.pi * 0.25 * x) * np.ones((300, 1))
    after = measure_difference(scene, masked_image(scene, wave, 1.0)).spectra.after
    peak = int(after.argmax())
    assert 0.5 * peak / 25 <= 0.25 < 0.5 * (peak + 1) / 25
    assert after[peak] > 100 * np.delete(after, (peak - 1, peak, peak + 1)).max()


def test_claims_are_flux_over_error(scene):
    """On the noise-free difference a matched filter has flux * sqrt(sum(psf^2) / variance)."""
    clean = measure_difference(scene, masked_image(scene, scene.expected, 300.0))
    psf = scene.science_psf(*scene.centre)
    for change in clean.changes:
        assert change.claimed[1] == pytest.approx(change.flux * np.sqrt(np.sum(psf**2) / 300.0), rel=0.15)
    assert [c.flux for c in clean.changes] == scene.changes["flux"].tolist()
    assert {c.kind for c in clean.changes} == {"transient", "variable star"}


def test_honest_is_claimed_over_the_scatter(measured):
    for change in measured.changes:
        for claimed, honest, scatter in zip(change.claimed, change.honest, measured.filtered, strict=True):
            assert honest == pytest.approx(claimed / scatter)


@pytest.mark.parametrize("flux", [8000.0, -8000.0])
def test_sources_that_were_not_planted_are_false(scene, flux):
    distance = ndimage.distance_transform_edt(interior(scene.science.shape) & ~scene.sources)
    y, x = np.unravel_index(int(distance.argmax()), distance.shape)
    assert distance[y, x] > 15
    rows, columns = np.ogrid[:300, :320]
    false = point_source(rows - y, columns - x, flux, 2.2)
    clean, spoiled = (
        measure_difference(scene, masked_image(scene, image, 300.0))
        for image in (scene.expected, scene.expected + false)
    )
    assert (clean.n_false[1], spoiled.n_false[1]) == (0, 1)


def test_psf_of_the_decorrelated_image_is_used(scene, white):
    wide = np.ones((5, 5)) / 25
    mine = measure_difference(scene, white, psf=wide)
    change = mine.changes[0]
    expected = matched_filter(white, wide)[round(change.y), round(change.x)]
    assert change.claimed[1] == pytest.approx(expected)
    assert change.claimed[0] == measure_difference(scene, white).changes[0].claimed[0]


def test_matched_filter_is_its_definition():
    rng = np.random.default_rng(1)
    image, variance = rng.normal(size=(9, 11)), rng.uniform(1, 2, (9, 11))
    psf = rng.uniform(0, 1, (3, 5))
    schema = simulate_difference(shape=(96, 96)).science.schema
    found = matched_filter(MaskedImage(image, variance, np.zeros((9, 11), np.int32), schema=schema), psf)
    for y, x in ((1, 2), (4, 5), (7, 8)):
        box = (slice(y - 1, y + 2), slice(x - 2, x + 3))
        assert found[y, x] == pytest.approx((psf * image[box]).sum() / np.sqrt((psf**2 * variance[box]).sum()))


def test_rows_hold_what_was_measured(measured):
    rows = difference_rows(measured)
    assert all(len(row) == 3 and all(isinstance(cell, str) for cell in row) for row in rows)
    table = {what: cells for what, *cells in rows}
    lag1, error = table["correlation of direct neighbours"][1].split(" +- ")
    assert float(lag1) == pytest.approx(measured.noise[1].lag1, abs=1e-4)
    assert float(error) == pytest.approx(measured.noise[1].lag1_error, abs=1e-4)
    assert table[f"false detections above {THRESHOLD:g} sigma, where nothing changed"] == [
        str(n) for n in measured.n_false
    ]
