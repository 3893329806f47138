"""`gpucoadd streaks`, and trails in `gpucoadd coadd`: same pixels as the Python calls, one line for each mistake."""

import numpy as np
import pytest
from astropy.io import fits as astropy_fits
from astropy.table import Table

import gpucoadd
from gpucoadd import MaskSchema, cli, fits
from gpucoadd.arguments import read_options
from gpucoadd.simulate import gaussian_psf, simulate_night, write_night

SHAPE, SIGMA = (180, 240), 2.0
SCHEMA = MaskSchema.lsst()


def trail(slope, first, crest):
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    return crest * np.exp(-0.5 * ((y - first - slope * x) / np.hypot(1, slope) / SIGMA) ** 2)


def planes(seed, light):
    rng = np.random.default_rng(seed)
    image = (3 * (rng.normal(size=SHAPE) + light)).astype(np.float32)
    mask = np.zeros(SHAPE, np.int32)
    mask[:, :12] = SCHEMA.bitmask("NO_DATA")
    image[:, :12] = np.nan
    return image, np.full(SHAPE, 9, np.float32), mask


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two differences with one line in common, and one of a trail alone."""
    folder = tmp_path_factory.mktemp("differences")
    row, moving = trail(0.0, 40, 1.0), trail(0.4, 60, 0.8)
    for name, seed, light in (("a", 1, row + moving), ("b", 2, row)):
        image, variance, mask = planes(seed, light)
        psf = {"PSF": gaussian_psf(SIGMA)}
        fits.write_planes(
            folder / f"{name}.fits",
            image=image,
            variance=variance,
            mask=mask,
            schema=SCHEMA,
            origin=(-7, 30),
            extra=psf,
        )
    bare = np.random.default_rng(3).normal(size=SHAPE) + moving
    astropy_fits.writeto(folder / "bare.fits", (50 * bare).astype(np.float32))
    return folder


def found_in(folder, *others):
    given = [fits.read_difference(folder / name, device="cpu") for name in ("a.fits", *others)]
    triples = [(g.image, g.variance, (g.mask & SCHEMA.bitmask("NO_DATA")) != 0) for g in given]
    return gpucoadd.find_streaks(*triples[0], psf_sigma=SIGMA, others=triples[1:] or None)


def read_mask(path):
    with astropy_fits.open(path) as hdus:
        header, data = hdus["MASK"].header, hdus["MASK"].data
        assert (header["CRVAL1A"], header["CRVAL2A"]) == (30, -7)
        return data, 1 << header["MP_STREAK"]


def test_mask_and_table_equal_the_python_call(folder, tmp_path, capsys):
    mask, table = tmp_path / "mask.fits", tmp_path / "lines.ecsv"
    assert cli.main(["streaks", str(folder / "a.fits"), "-o", str(mask), "--table", str(table), "--device", "cpu"]) == 0
    expected = found_in(folder)
    assert len(expected) == 2
    data, bit = read_mask(mask)
    np.testing.assert_array_equal(data, np.where(expected.mask, bit, 0))
    lines = Table.read(table)
    np.testing.assert_allclose(lines["z"], expected.z)
    np.testing.assert_allclose(lines["start_y"], expected.ends[:, 0, 0])
    assert lines["width"].unit == "pix"
    assert (lines.meta["origin_y"], lines.meta["origin_x"]) == (-7, 30)
    said = capsys.readouterr().out
    assert said.count("trail: (y, x) from") == 2
    assert "noise         from the file" in said and "psf           2.00 pixels" in said
    assert f"masked        {int(expected.mask.sum())} pixels" in said
    assert fits.read_provenance(mask)["config"]["min_length"] == 128
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lines.ecsv", "mask.fits"]


def test_lines_of_other_differences_are_not_masked(folder, tmp_path, capsys):
    words = ["streaks", str(folder / "a.fits"), "-o", str(tmp_path / "m.fits"), "--device", "cpu"]
    assert cli.main([*words, "--others", str(folder / "b.fits")]) == 0
    expected = found_in(folder, "b.fits")
    assert sorted(expected.persistent.tolist()) == [False, True]
    data, bit = read_mask(tmp_path / "m.fits")
    np.testing.assert_array_equal(data & bit != 0, expected.mask)
    assert "2, of which 1 are in other differences, too, and not masked" in capsys.readouterr().out


def test_an_image_alone_is_enough(folder, tmp_path, capsys):
    words = ["streaks", str(folder / "bare.fits"), "-o", str(tmp_path / "m.fits"), "--device", "cpu"]
    assert cli.main([*words, "--psf-fwhm", "4.7", "-c", "min_length=96"]) == 0
    said = capsys.readouterr().out
    assert "noise         measured on the image" in said
    assert said.count("trail: (y, x)") == 1


MISTAKES = [
    (["{bare}", "-o", "{out}"], "does not tell how wide its PSF is; give --psf-fwhm, in pixels"),
    (["{bare}", "-o", "{out}", "--psf-fwhm", "0"], "--psf-fwhm must be positive"),
    (["{a}", "-o", "{a}"], "is an input too"),
    (["{a}", "-o", "{out}", "--table", "{out}"], "ends with .ecsv"),
    (["{a}", "-o", "{out}", "--table", "{folder}/lines.csv"], "ends with .ecsv"),
    (["{a}", "-o", "{out}", "-c", "min_lenght=64"], "no configuration field 'min_lenght'; nearest: min_length"),
    (["{a}", "-o", "{out}", "-c", "min_length=2"], "streaks.min_length must be at least 16, got 2"),
    (["{a}", "-o", "{out}", "-c", "signs=up"], "streaks.signs must be one of"),
    (["{a}", "-o", "{out}", "--others", "{folder}/none.fits"], "none.fits"),
    (
        ["{a}", "-o", "{out}", "--others", "{small}"],
        "(30, 40) at origin (0, 0) but",
    ),
    (["{a}", "-o", "{out}", "--others", "{bare}"], "(180, 240) at origin (0, 0) but"),
    (["{folder}/none.fits", "-o", "{out}"], "none.fits"),
]


@pytest.mark.parametrize(("words", "message"), MISTAKES)
def test_mistakes_are_one_line_and_leave_nothing(words, message, folder, tmp_path, capsys):
    small = tmp_path / "small.fits"
    astropy_fits.writeto(small, np.zeros((30, 40), np.float32))
    names = {name: folder / f"{name}.fits" for name in ("a", "b", "bare")}
    names |= {"out": tmp_path / "mask.fits", "folder": tmp_path, "small": small}
    assert cli.main(["streaks", *(word.format(**names) for word in words), "--device", "cpu"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and message in said
    assert [path.name for path in tmp_path.iterdir()] == ["small.fits"]


def test_a_difference_has_no_vote_on_itself(folder, tmp_path, capsys):
    words = ["streaks", str(folder / "a.fits"), "-o", str(tmp_path / "m.fits"), "--device", "cpu"]
    assert cli.main([*words, "--others", str(folder / "a.fits"), str(folder / ".." / folder.name / "a.fits")]) == 0
    data, bit = read_mask(tmp_path / "m.fits")
    np.testing.assert_array_equal(data & bit != 0, found_in(folder).mask)
    assert "2, of which 0 are in other differences" in capsys.readouterr().out


def test_one_file_of_options_serves_both_commands(folder, tmp_path, capsys):
    toml = tmp_path / "options.toml"
    toml.write_text("[streaks]\nenabled = true\nmin_length = 96\n")
    out, words = tmp_path / "m.fits", ["--device", "cpu", "--config", str(toml)]
    assert cli.main(["streaks", str(folder / "a.fits"), "-o", str(out), *words]) == 0
    config = fits.read_provenance(out)["config"]
    assert config["min_length"] == 96 and "enabled" not in config
    assert gpucoadd.CoaddConfig.from_names(read_options(str(toml), [])).streaks.min_length == 96


def test_psf_width_of_a_file(folder):
    assert fits.find_psf_sigma(folder / "a.fits") == pytest.approx(SIGMA, rel=1e-3)
    assert np.isnan(fits.find_psf_sigma(folder / "bare.fits"))


def test_artifact_masks_tell_trails(tmp_path, capsys):
    night = simulate_night(n_epochs=6, shape=(256, 256), seed=4, trail_fraction=0, faint_trail=0.6)
    write_night(night, tmp_path / "in")
    words = ["coadd", str(tmp_path / "in" / "direct"), "--psf-matched", str(tmp_path / "in" / "matched")]
    words += ["-o", str(tmp_path / "coadd.fits"), "--artifact-masks", str(tmp_path / "masks"), "--device", "cpu"]
    assert cli.main([*words, "-c", "streaks.min_length=96"]) == 2
    assert "no trails are searched for; add -c streaks.enabled=true" in capsys.readouterr().err
    assert cli.main([*words, "-c", "streaks.enabled=true"]) == 0
    assert "trails        1 in 1 of 6 epochs" in capsys.readouterr().out
    warps = gpucoadd.read_warps(tmp_path / "in" / "direct", psf_matched=tmp_path / "in" / "matched", device="cpu")
    config = gpucoadd.CoaddConfig(streaks=gpucoadd.StreakConfig())
    expected = gpucoadd.coadd(warps, config=config)
    assert expected.streak.any()
    for epoch, clipped, streak in zip(expected.epochs, expected.clipped, expected.streak, strict=True):
        with astropy_fits.open(tmp_path / "masks" / f"{epoch}.fits") as hdus:
            data, header = hdus["MASK"].data, hdus["MASK"].header
            np.testing.assert_array_equal(data >> header["MP_CLIPPED"] & 1, clipped)
            np.testing.assert_array_equal(data >> header["MP_STREAK"] & 1, streak)
    assert fits.read_provenance(tmp_path / "coadd.fits")["config"]["streaks.enabled"] is True
