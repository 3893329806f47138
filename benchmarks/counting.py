"""
Plugin for pytest: counts outcomes while the tests run, so that a run that is cut short has counts too.

    GPUCOADD_COUNTS=counts.json python -m pytest -p counting

"device" counts the tests whose parameters name CuPy, or that are marked as needing a GPU, apart.
"""

from __future__ import annotations

import json
import os
import re
import time
from typing import Any

EVERY = 0.5  # seconds between two files
MESSAGES = 20  # failures that are told in words
_OF_DEVICE = re.compile(r"\[(.*-)?cupy(-.*)?\]$")  # a parameter, not a name with that word in it


class Counter:
    """Outcomes so far."""

    def __init__(self, path: str) -> None:
        self.path, self.written = path, 0.0
        self.counts: dict[str, Any] = {"complete": False, "passed": 0, "failed": 0, "skipped": 0, "errors": 0}
        self.counts |= {"device": {"passed": 0, "failed": 0, "skipped": 0, "errors": 0}, "failures": {}}

    def pytest_runtest_logreport(self, report: Any) -> None:
        """One phase of one test is done."""
        if report.passed and report.when != "call":
            return
        outcome = report.outcome if report.when == "call" or not report.failed else "errors"
        self.counts[outcome] += 1
        if _OF_DEVICE.search(report.nodeid) or "gpu" in report.keywords:
            self.counts["device"][outcome] += 1
        if report.failed and len(self.counts["failures"]) < MESSAGES:
            crash = getattr(report.longrepr, "reprcrash", None)
            self.counts["failures"][report.nodeid] = str(getattr(crash, "message", report.longrepr))[:500]
        self._write(finished=False)

    def pytest_collectreport(self, report: Any) -> None:
        """A file that cannot be imported is an error."""
        if report.failed:
            self.counts["errors"] += 1
            self.counts["failures"][report.nodeid] = str(report.longrepr)[-500:]
            self._write(finished=False)

    def pytest_sessionfinish(self, exitstatus: int) -> None:
        """The last file."""
        self.counts["complete"] = int(exitstatus) in (0, 1)  # 2 and up: interrupted, or no test was run
        self._write(finished=True)

    def _write(self, *, finished: bool) -> None:
        now = time.monotonic()
        if not finished and now - self.written < EVERY:
            return
        self.written = now
        aside = f"{self.path}.part"
        with open(aside, "w", encoding="utf-8") as stream:
            json.dump(self.counts, stream)
        os.replace(aside, self.path)


def pytest_configure(config: Any) -> None:
    """Count in the process that sees all reports, not in the workers of xdist."""
    if not hasattr(config, "workerinput") and os.environ.get("GPUCOADD_COUNTS"):
        config.pluginmanager.register(Counter(os.environ["GPUCOADD_COUNTS"]))
