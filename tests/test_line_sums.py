"""Sums along lines, pixel by pixel."""

import numpy as np
import pytest
import standin
from numpy.testing import assert_allclose, assert_array_equal

from gpucoadd import to_host
from gpucoadd.line_sums import TILE, line_rows, line_sums, split


def direct(plane, lines):
    """The sums of `line_sums` along the paths that it tells, added in double precision."""
    n_rows, n_columns = plane.shape
    n_blocks, length, n_starts = lines.sums.shape[1:]
    sums, sizes = (np.zeros((n_blocks, length, n_starts)) for _ in range(2))
    for block in range(n_blocks):
        for displacement in range(length):
            for column, rise in enumerate(line_rows(length, displacement), start=block * length):
                row = lines.first + rise + np.arange(n_starts)
                inside = (row >= 0) & (row < n_rows)
                if column < n_columns:
                    sums[block, displacement, inside] += plane[row[inside], column]
                    sizes[block, displacement, inside] += abs(plane[row[inside], column])
    return sums, sizes


@pytest.mark.parametrize(("n_rows", "n_columns"), [(16, 16), (21, 24), (30, 60), (7, 5), (3, 130), (1, 1)])
def test_sums_are_those_along_the_paths(xp, n_rows, n_columns):
    planes = np.random.default_rng(n_columns).normal(size=(2, n_rows, n_columns)).astype(np.float32)
    base, n_joins = split(n_columns)
    lengths = []
    for lines in line_sums(xp.asarray(planes)):
        lengths.append(lines.length)
        sums = to_host(lines.sums)
        assert sums.shape[1] * lines.length == base << n_joins and sums.shape[3] % TILE == 0
        # Lines start early enough to have a pixel at their very end, and in every row.
        assert lines.first <= -(lines.length - 1) and lines.first + sums.shape[3] == n_rows
        for plane, found in zip(planes, sums):
            expected, sizes = direct(plane.astype(float), lines)
            # One rounding for each of base + n_joins additions in a row.
            assert np.all(abs(found - expected) <= (base + n_joins) * np.finfo(np.float32).eps * sizes)
    assert lengths == [base << k for k in range(n_joins + 1)]


def test_an_impulse_is_counted_once_by_the_lines_through_it(xp):
    plane = np.zeros((1, 20, 40), np.float32)
    plane[0, 11, 29] = 1
    for lines in line_sums(xp.asarray(plane)):
        block, column = divmod(29, lines.length)
        expected = np.zeros(lines.sums.shape[1:], np.float32)
        for displacement in range(lines.length):
            start = 11 - line_rows(lines.length, displacement)[column] - lines.first
            expected[block, displacement, start] = 1
        assert_array_equal(to_host(lines.sums)[0], expected)


@pytest.mark.parametrize("length", [8, 9, 15, 16, 26, 60, 128])
def test_paths_ascend_evenly(length):
    straight = np.arange(length) / (length - 1)
    for displacement in range(length):
        rows = np.array(line_rows(length, displacement))
        assert rows[0] == 0 and rows[-1] == displacement
        assert set(np.diff(rows)) <= {0, 1}
        assert abs(rows - displacement * straight).max() <= 0.5 + 0.5 * np.log2(length)


@pytest.mark.parametrize("length", range(8, 16))
def test_the_first_columns_are_the_straight_line_rounded(length):
    for displacement in range(length):
        expected = [int(displacement * column / (length - 1) + 0.5 + 1e-9) for column in range(length)]
        assert line_rows(length, displacement) == expected


@pytest.mark.parametrize(
    ("n_columns", "expected"),
    [(1, (8, 0)), (8, (8, 0)), (15, (15, 0)), (16, (8, 1)), (31, (8, 2)), (1024, (8, 7)), (2100, (9, 8))],
)
def test_columns_are_filled_up_by_an_eighth_at_most(n_columns, expected):
    assert split(n_columns) == expected


def test_every_count_of_columns_fits():
    for n_columns in range(8, 3000):
        base, n_joins = split(n_columns)
        assert 8 <= base <= 15 and n_columns <= base << n_joins <= n_columns * 9 / 8


def test_short_lines_are_left_out(xp):
    plane = xp.asarray(np.ones((1, 10, 100), np.float32))
    assert [lines.length for lines in line_sums(plane, min_length=26)] == [26, 52, 104]
    assert [lines.length for lines in line_sums(plane, min_length=105)] == []


def test_flat_images_have_lengths(xp):
    plane = np.ones((1, 64, 32), np.float32)
    for lines in line_sums(xp.asarray(plane)):
        inside = slice(-lines.first, -lines.first + 64 - lines.length)
        assert_allclose(to_host(lines.sums)[..., inside], lines.length)


def test_the_host_reads_nothing(device):
    plane = device.asarray(np.ones((2, 30, 60), np.float32))
    standin.reset()
    list(line_sums(plane))
    assert standin.host_reads == 0 and standin.hidden_waits == 0
