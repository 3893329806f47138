"""
Tests and benchmarks on a machine with a GPU, in one go and without network.

    benchmarks/device.sh OUT                     # where a GPU is
    benchmarks/device.sh --dry-run OUT           # anywhere: shows that this script works

The parts: a look at the device; the tests with the CuPy backend; `gpucoadd bench`; `bench_device.py`. One document,
OUT/<device>-<commit>.json, takes in every result as soon as it is there, so it is complete JSON at any moment. Each
part has a share of the time limit, and is ended when that is over. The exit code is 0 if all parts were done and all
tests passed, 1 if not, 2 if there is no device.

Why the sources are laid out anew: `kernels` and `fallback` stand beside `gpucoadd` in a checkout and are installed
inside it. Links in a temporary folder do the same with no installer at all.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

CHECKOUT = Path(__file__).resolve().parents[1]
LIMIT = 520.0  # seconds in all: under nine minutes, which is what the project allows a run
AT_LEAST = 5.0  # seconds left, under which no part is begun
POLL = 0.5  # seconds between two looks at what a part has written
TAIL = 30  # lines of a failed part's output that are kept
WORKERS = 8  # test processes at most
SOURCES = ("gpucoadd", "kernels", "fallback")
DRY_TESTS = ("tests/test_primitives.py", "tests/test_detection.py", "tests/test_standin.py")
TINY = ("--size", "64", "--epochs", "3", "--repeats", "1")

_LOOK = """
import json, cupy
runtime = cupy.cuda.runtime
assert cupy.cuda.is_available(), "CuPy sees no CUDA device"
assert int(cupy.arange(10).sum()) == 45, "the device does not compute"
properties = runtime.getDeviceProperties(0)
free, total = runtime.memGetInfo()
print(json.dumps({
    "name": properties["name"].decode(), "count": runtime.getDeviceCount(),
    "compute": f"{properties['major']}.{properties['minor']}", "memory_bytes": total, "free_bytes": free,
    "driver_cuda": runtime.driverGetVersion(), "runtime_cuda": runtime.runtimeGetVersion(), "cupy": cupy.__version__,
}))
"""
_VERSIONS = """
import json, platform
from importlib import metadata
found = {"python": platform.python_version()}
for distribution in metadata.distributions():
    name = (distribution.metadata["Name"] or "").lower()
    if name.startswith(("numpy", "scipy", "astropy", "cupy", "pytest", "hypothesis", "sfft", "ccdproc", "nvidia-cuda")):
        found.setdefault(name, distribution.version)
print(json.dumps(found))
"""


class Part(NamedTuple):
    """One process: its command, where it writes JSON, seconds it may take, and its share of what is left then."""

    name: str
    command: list[str]
    result: Path | None
    cap: float
    share: float = 1.0


class Run:
    """What is common to all parts: the laid-out sources, the environment, the document and the clock."""

    def __init__(self, args: argparse.Namespace, work: Path) -> None:
        self.args, self.work = args, work
        self.tree = work / "tree"
        self.end = time.monotonic() + args.limit
        lay_out(self.tree)
        self.environment = self._environment()
        self.document: dict[str, Any] = {
            "dry_run": args.dry_run,
            "complete": False,
            "commit": commit(),
            "sources": digest(),
            "began": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "limit": args.limit,
            "device": {},
            "versions": {},
            "goldens": "GPUCOADD_GOLDENS" in self.environment,
            "parts": {},
            "tests": {},
            "bench": {},
            "comparison": {},
        }
        self.path: Path | None = None

    def _environment(self) -> dict[str, str]:
        environment = dict(os.environ, PYTHONUNBUFFERED="1", PYTHONDONTWRITEBYTECODE="1")
        paths = [self.tree, CHECKOUT / "benchmarks", self.work / "site", os.environ.get("PYTHONPATH")]
        environment["PYTHONPATH"] = os.pathsep.join(str(path) for path in paths if path)
        environment.pop("GPUCOADD_GOLDENS", None)
        if self.args.goldens:
            environment["GPUCOADD_GOLDENS"] = str(Path(self.args.goldens).resolve())  # the parts run in another folder
        environment["GPUCOADD_COUNTS"] = str(self.work / "tests.json")
        return environment

    def python(self, *words: str) -> list[str]:
        """Command of this Python."""
        return [sys.executable, *words]

    def left(self) -> float:
        """Seconds until the limit."""
        return self.end - time.monotonic()

    def keep(self) -> None:
        """Write the document, whole or not at all."""
        if self.path is None:
            return
        aside = self.path.with_suffix(".part")
        aside.write_text(json.dumps(self.document, indent=1) + "\n", encoding="utf-8")
        os.replace(aside, self.path)

    def ask(self, code: str) -> tuple[dict[str, Any], str]:
        """What a short program prints as JSON, and what it complained of."""
        command, limit = self.python("-c", code), max(1.0, min(120.0, self.left()))
        try:
            done = subprocess.run(
                command, cwd=self.tree, env=self.environment, timeout=limit, capture_output=True, text=True, check=False
            )
        except subprocess.TimeoutExpired:
            return {}, f"no answer in {limit:.0f} seconds"
        if done.returncode:
            return {}, (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        return json.loads(done.stdout.splitlines()[-1]), ""

    def perform(self, part: Part, into: Callable[[dict[str, Any]], None]) -> int:
        """
        Run a part within its time, taking in what it writes while it runs.

        Returns
        -------
        int
            Its exit code; 124 if it was ended, or there was no time left to begin.
        """
        limit = min(part.cap, self.left() * part.share)
        words = " ".join(part.command[1:]).replace(str(self.work), "$WORK").replace(str(CHECKOUT), ".")
        note: dict[str, Any] = {"command": f"python {words}", "limit": round(limit, 1), "exit_code": None}
        self.document["parts"][part.name] = note
        if self.left() < AT_LEAST:
            note["exit_code"] = 124
            print(f"== {part.name}: no time left", flush=True)
            self.keep()
            return 124
        print(f"== {part.name}: at most {limit:.0f} seconds", flush=True)
        self.keep()
        began = time.monotonic()
        output = self.work / f"{part.name}.log"
        with open(output, "wb") as stream:
            process = subprocess.Popen(
                part.command,
                cwd=self.tree,
                env=self.environment,
                stdout=stream,
                stderr=subprocess.STDOUT,
                process_group=0,
            )
            try:
                code = self._wait(process, began + limit, part.result, into)
            finally:
                end_group(process)
        note |= {"exit_code": code, "seconds": round(time.monotonic() - began, 1)}
        self._take(part.result, into)
        text = output.read_text(errors="replace")
        print(text, end="" if text.endswith("\n") else "\n", flush=True)
        if code:
            note["output"] = text.splitlines()[-TAIL:]
        self.keep()
        return code

    def _wait(
        self, process: subprocess.Popen[bytes], end: float, result: Path | None, into: Callable[[dict[str, Any]], None]
    ) -> int:
        while True:
            try:
                return process.wait(timeout=POLL)
            except subprocess.TimeoutExpired:
                self._take(result, into)
                self.keep()
            if time.monotonic() > end:
                return 124

    def _take(self, result: Path | None, into: Callable[[dict[str, Any]], None]) -> None:
        if result is not None and result.is_file():
            into(json.loads(result.read_text(encoding="utf-8")))


def end_group(process: subprocess.Popen[bytes]) -> None:
    """End a process and those it started, gently at first."""
    for kind, patience in ((signal.SIGTERM, 3.0), (signal.SIGKILL, 10.0)):
        try:
            os.killpg(process.pid, kind)
        except ProcessLookupError:
            break
        try:
            process.wait(timeout=patience)
        except subprocess.TimeoutExpired:
            continue
    process.wait()


# The sources ---------------------------------------------------------------------------------------------------------


def lay_out(tree: Path) -> None:
    """Links to the checkout in a new folder, in which `gpucoadd` is as it will be installed."""
    (tree / "gpucoadd").mkdir(parents=True)
    for entry in CHECKOUT.iterdir():
        passed_over = entry.name.startswith(".") or entry.suffix in (".dist-info", ".egg-info")
        if not passed_over and entry.name not in ("gpucoadd", "build", "dist"):
            (tree / entry.name).symlink_to(entry)
    for entry in (CHECKOUT / "gpucoadd").iterdir():
        if entry.name not in ("__pycache__", "kernels", "fallback"):
            (tree / "gpucoadd" / entry.name).symlink_to(entry)
    for name in ("kernels", "fallback"):
        (tree / "gpucoadd" / name).symlink_to(CHECKOUT / name)
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    about = tree / f"{project['name']}-{project['version']}.dist-info"
    about.mkdir()
    lines = ["Metadata-Version: 2.1", f"Name: {project['name']}", f"Version: {project['version']}"]
    about.joinpath("METADATA").write_text("\n".join(lines) + "\n", encoding="utf-8")


def commit() -> str:
    """Short hash of the commit, with "-dirty" if files differ from it; $GPUCOADD_COMMIT, or "unknown", without git."""

    def git(*words: str) -> str:
        done = subprocess.run(["git", "-C", str(CHECKOUT), *words], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        changed = git("status", "--porcelain", "--", *SOURCES)
        return git("rev-parse", "--short", "HEAD") + ("-dirty" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return os.environ.get("GPUCOADD_COMMIT", "unknown")


def digest() -> str:
    """Hash of the package's sources: tells two runs of the same code, also where there is no git."""
    total = hashlib.sha256()
    for folder in SOURCES:
        for path in sorted((CHECKOUT / folder).rglob("*")):
            if path.suffix in (".py", ".cu", ".cuh"):
                total.update(path.relative_to(CHECKOUT).as_posix().encode() + b"\0" + path.read_bytes())
    return total.hexdigest()[:12]


def install_wheels(run: Run, folder: str) -> str:
    """Unpack the wheels of a folder beside the sources, without network; what went wrong, or ""."""
    wheels = sorted(str(path) for path in Path(folder).glob("*.whl"))
    if not wheels:
        return f"--wheels: there is no *.whl in {folder}"
    words = ["-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-compile", "--upgrade", "--target"]
    command = run.python(*words, str(run.work / "site"), *wheels)
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=max(1.0, run.left()))
    return done.stderr.strip() if done.returncode else ""


# The parts -----------------------------------------------------------------------------------------------------------


def tests_part(run: Run) -> Part:
    """All tests with the CuPy backend; a few, none of which asks for it, in a dry run."""
    dry = run.args.dry_run
    words = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "counting", "--rootdir", str(run.tree)]
    workers = min(WORKERS, len(os.sched_getaffinity(0)))
    has_xdist, _ = run.ask("import xdist, json; print(json.dumps({'xdist': xdist.__version__}))")
    if has_xdist and not dry and workers > 1:
        words += ["-n", str(workers)]
    if dry:
        words += run.args.dry_tests.split(",")
    else:
        words += ["--ignore=gpucoadd/kernels", "--ignore=gpucoadd/fallback"]
    return Part("tests", run.python(*words), run.work / "tests.json", cap=240.0, share=0.5)


def bench_part(run: Run, *, on_stand_in: bool = False) -> Part:
    """`gpucoadd bench`."""
    name = "bench-on-stand-in" if on_stand_in else "bench"
    result = run.work / f"{name}.json"
    start = [str(run.tree / "tests/rehearsal.py")] if on_stand_in else ["-m", "gpucoadd"]
    dry = run.args.dry_run
    words = ["bench", "--json", str(result), "--device", "cuda" if on_stand_in or not dry else "cpu"]
    return Part(name, run.python(*start, *words, *(TINY if dry else ())), result, cap=90.0, share=0.4)


def comparison_part(run: Run) -> Part:
    """`bench_device.py`."""
    result = run.work / "comparison.json"
    dry = run.args.dry_run
    words = [str(CHECKOUT / "benchmarks/bench_device.py"), "--json", str(result), "--device", "cpu" if dry else "cuda"]
    return Part("comparison", run.python(*words, *(TINY if dry else ())), result, cap=300.0, share=0.95)


def run_parts(run: Run) -> list[str]:
    """All parts that were asked for; the names of those that failed."""
    document = run.document
    failed = []
    for name in run.args.parts.split(","):
        into: Callable[[dict[str, Any]], None]
        if name == "tests":
            part, into = tests_part(run), lambda result: document.update(tests=result)
        elif name == "bench":
            part, into = bench_part(run), lambda result: document.update(bench=result)
        elif name == "stand-in":
            if not run.args.dry_run:
                continue
            part, into = bench_part(run, on_stand_in=True), lambda result: document.update(bench_on_stand_in=result)
        else:
            part, into = comparison_part(run), lambda result: document.update(comparison=result)
        if run.perform(part, into):
            failed.append(part.name)
    return failed


PARTS = ("tests", "bench", "stand-in", "comparison")


def look(run: Run) -> str:
    """Note the device and the versions; why there is no device, or ""."""
    run.document["versions"], _ = run.ask(_VERSIONS)
    if run.args.dry_run:
        run.document["device"] = {"name": "dry run"}
        return ""
    run.document["device"], trouble = run.ask(_LOOK)
    return trouble


def report(run: Run, failed: Sequence[str]) -> None:
    """A short table."""
    document = run.document
    tests = document["tests"]
    print(f"\n{document['device'].get('name')}, commit {document['commit']}, sources {document['sources']}")
    if tests:
        counts = ", ".join(f"{tests[word]} {word}" for word in ("passed", "failed", "errors", "skipped"))
        on_device = ", ".join(f"{tests['device'][word]} {word}" for word in ("passed", "failed", "errors", "skipped"))
        print(f"tests: {counts}; of these on a device: {on_device}{'' if tests['complete'] else '; CUT SHORT'}")
    steps = {**document["bench"].get("steps", {}), **document["comparison"].get("results", {})}
    for name, line in steps.items():
        if "seconds" in line:
            share = f"{line['share_of_copy']:9.1%} of copy" if "share_of_copy" in line else ""
            print(f"{name:<50}{1e3 * line['seconds']['median']:12.3f} ms{share}")
        else:
            print(f"{name:<50}  FAILED: {line['failed']}")
    for line in document["comparison"].get("targets", ()):
        if line["bound"] is not None:
            verdict = {True: "met", False: "MISSED", None: "not judged"}[line["met"]]
            print(f"{line['what']:<70}{line['value']:10.3g}  {line['relation']} {line['bound']:g}: {verdict}")
    for name in failed:
        print(f"FAILED or cut short: {name}")
    print(f"wrote {run.path}")


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="device.sh", description=__doc__.split("\n\n")[0].strip())
    parser.add_argument("out", nargs="?", help="folder for the document (default: $OUT, then benchmarks/results)")
    parser.add_argument("--wheels", metavar="DIR", help="wheels to unpack first, such as pytest's")
    parser.add_argument(
        "--goldens",
        metavar="DIR",
        default=os.environ.get("GPUCOADD_GOLDENS"),
        help="reference files for the tests; those of the environment variable GPUCOADD_GOLDENS when left out",
    )
    parser.add_argument("--limit", type=float, default=LIMIT, metavar="SECONDS", help=f"in all (default: {LIMIT:.0f})")
    parser.add_argument("--parts", default=",".join(PARTS), help=f"comma-separated, of {', '.join(PARTS)}")
    parser.add_argument("--dry-run", action="store_true", help="everything small and without a GPU")
    parser.add_argument("--dry-tests", default=",".join(DRY_TESTS), help="tests of a dry run")
    args = parser.parse_args()
    unknown = [name for name in args.parts.split(",") if name not in PARTS]
    if unknown:
        parser.error(f"--parts: no part {unknown[0]!r}; there are {', '.join(PARTS)}")
    if args.goldens and not Path(args.goldens).is_dir():
        parser.error(f"--goldens, or GPUCOADD_GOLDENS, must name a folder of reference files, got {args.goldens}")
    if not args.limit > 0:
        parser.error(f"--limit must be positive, got {args.limit}")
    if args.out is None and args.dry_run and "OUT" not in os.environ:
        parser.error("a dry run needs OUT: benchmarks/results holds real runs only")
    return args


def main() -> int:
    """Lay out, look, test, measure, report."""
    args = parsed()
    out = Path(args.out or os.environ.get("OUT") or CHECKOUT / "benchmarks/results").resolve()
    with tempfile.TemporaryDirectory(prefix="gpucoadd-device-") as work:
        run = Run(args, Path(work))
        trouble = install_wheels(run, args.wheels) if args.wheels else ""
        trouble = trouble or look(run)
        if trouble:
            print(f"device.sh: no run: {trouble}", file=sys.stderr)
            return 2
        out.mkdir(parents=True, exist_ok=True)
        name = re.sub(r"[^a-z0-9]+", "-", run.document["device"]["name"].lower()).strip("-")
        version = run.document["commit"]
        version = f"sources.{run.document['sources']}" if version == "unknown" else version
        run.path = out / f"{name}-{version}.json"
        run.keep()
        failed = run_parts(run)
        run.document["complete"] = not failed
        run.document["seconds"] = round(args.limit - run.left(), 1)
        run.keep()
        report(run, failed)
    return 1 if failed else 0


if __name__ == "__main__":
    # an outer time limit ends this process with SIGTERM: let `finally` end the part that runs
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    raise SystemExit(main())
