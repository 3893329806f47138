"""Tests that need Rubin's engine: skipped, file by file, where `gpucoadd.lsst` cannot be imported."""

import pytest

try:
    import gpucoadd.lsst  # noqa: F401
except ImportError as error:
    _REASON = str(error)
else:
    _REASON = None


class _NotImported(pytest.File):
    """A file of tests without the engine that its imports ask for."""

    def collect(self):
        """Skip, and say why."""
        pytest.skip(_REASON, allow_module_level=True)


@pytest.hookimpl(wrapper=True)
def pytest_collect_file(file_path, parent):
    """In place of the file's tests and doctests, for which it would be imported."""
    found = yield
    if _REASON is None or file_path.name == "conftest.py":
        return found
    return [_NotImported.from_parent(parent, path=file_path)] if file_path.name.startswith("test_") else []
