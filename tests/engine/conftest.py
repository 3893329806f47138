"""Tests that need Rubin's engine: skipped, file by file, where `gpucoadd.lsst` cannot be imported."""

import pytest

try:
    import gpucoadd.lsst  # noqa: F401
except ImportError as error:
    _REASON = str(error)
else:
    _REASON = None


class _Skipped(pytest.Module):
    """A file of tests that is not imported."""

    def collect(self):
        """Skip, and say why."""
        pytest.skip(_REASON, allow_module_level=True)


def pytest_pycollect_makemodule(module_path, parent):
    """Every file here asks for the engine when it is imported."""
    return None if _REASON is None else _Skipped.from_parent(parent, path=module_path)
