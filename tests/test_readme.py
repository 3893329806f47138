"""What README shows, runs."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
STREAKS = (ROOT / "docs" / "streaks.md").read_text()
COADD, DECORRELATE = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Run an example in an empty folder; gives what it printed."""
    monkeypatch.chdir(tmp_path)

    def run_example(example):
        exec(compile(example, "README.md", "exec"), {})
        return capsys.readouterr().out

    return run_example


def test_the_coadd_example_runs(run, tmp_path):
    printed = run(COADD)
    assert "(128, 128) nJy from 8 epochs" in printed and "pixels clipped" in printed
    assert (tmp_path / "coadd.fits").is_file()


def test_the_decorrelation_example_runs(run):
    correlation, error = re.fullmatch(r"correlation of neighbours (\S+) \+- (\S+)\n", run(DECORRELATE)).groups()
    assert abs(float(correlation)) < 4 * float(error)


def test_the_streaks_example_runs(run):
    (example,) = re.findall(r"```python\n(.*?)```", STREAKS, re.DOTALL)
    printed = run(example)
    assert "Streaks(1 lines in 300 x 400, 0 persistent)" in printed and "start_y" in printed


def test_no_page_has_a_gap():
    assert not re.search(r"^(TABLE|TODO|XXX)$", README + STREAKS, re.MULTILINE)


@pytest.mark.parametrize("page", ["README.md", *(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))])
def test_links_point_at_files(page):
    for target in re.findall(r"\]\(([^)#]+)\)", (ROOT / page).read_text()):
        assert target.startswith("http") or (ROOT / page).parent.joinpath(target).exists(), target
