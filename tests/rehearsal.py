"""
A command or a script on the stand-in for CuPy: ``python tests/rehearsal.py bench --device cuda --size 64``.

Shows that what is written for a device holds together; its seconds mean nothing.
"""

from __future__ import annotations

import contextlib
import os
import runpy
import sys
import types

import standin


@contextlib.contextmanager
def device(devices=1):
    """`standin.installed` with a compiler that has a version; gives the fake cupy."""
    with standin.installed(devices) as cupy:
        if not hasattr(cupy.cuda, "nvrtc"):
            cupy.cuda.nvrtc = types.SimpleNamespace(getVersion=lambda: (13, 0))
        yield cupy


if __name__ == "__main__":
    with device():
        if sys.argv[1].endswith(".py"):
            del sys.argv[0]
            sys.path.insert(0, os.path.dirname(os.path.abspath(sys.argv[0])))
            runpy.run_path(sys.argv[0], run_name="__main__")
        from gpucoadd import cli

        sys.exit(cli.main())
