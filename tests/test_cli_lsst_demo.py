"""`gpucoadd lsst-demo` without Rubin's engine; with it, tests/engine has its tests."""

import sys

from gpucoadd import cli


def test_without_the_engine_it_says_what_to_install(monkeypatch, tmp_path, capsys):
    for name in [name for name in sys.modules if name.split(".")[0] == "lsst" or name.startswith("gpucoadd.lsst")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "lsst", None)
    assert cli.main(["lsst-demo", str(tmp_path / "demo")]) == 2
    said = capsys.readouterr().err
    assert 'pip install "gpucoadd[lsst]"' in said
    assert said.count("\n") == 1
    assert not (tmp_path / "demo").exists()
