"""These tests need Rubin's engine; without it none is collected."""

import importlib.util

collect_ignore_glob = [] if importlib.util.find_spec("lsst") else ["test_engine_*.py"]
