"""
Does the streak finder find what it should, and nothing else?

    python -m benchmarks.streaks --jobs 4 --markdown streaks.md     # from the checkout's root; all of it
    python benchmarks/streaks.py --quick                            # a few scenes of each kind

Runs the finder on seeded scenes with known trails, and prints one line per requirement: what, what the prototype of the
method reached, what is required, what came out, and pass or MISS. Exit code 1 when something misses.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))  # also under -m, and in the processes that are started

import argparse
import functools
import hashlib
import json
import multiprocessing
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from typing import Any

from common import processor, processors, say, versions

import numpy as np  # isort: skip  # after common, which pins its threads
import streak_checks  # isort: skip
from streak_cases import CLEAN, LOOK_CLOSER, MEASURED, PROPOSED, REQUIRED, Series  # isort: skip
from streak_measures import Outcome, search  # isort: skip
from streak_rows import Row, accuracy_rows, clean_rows, completeness_row, mask_rows, proposal_row  # isort: skip
from streak_scenes import Recipe, make_scene  # isort: skip

from gpucoadd import backend, streaks  # isort: skip

ITEMS = {
    "1": "completeness",
    "2": "false lines",
    "3": "accuracy",
    "4": "mask",
    "5": "real data",
    "6": "noise factor",
    "7": "line sums",
    "8": "invariance",
    "rows": "completeness next to the prototype",
    "proposals": "what the prototype did not run",
    "persistence": "lines that come back",
    "time": "seconds by size",
}
SERIES_STRIDE, KIND_STRIDE = 1_000_000, 10_000  # between the seeds of --seed, and of kinds of clean images

Task = tuple[Recipe, int, tuple[tuple[str, Any], ...]]
"""Recipe, seed, and the configuration that is not at its default: what a scene's outcome depends on."""


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0].strip())
    parser.add_argument("--quick", action="store_true", help="a few scenes of each series, none larger than 1024")
    parser.add_argument("--items", default=",".join(ITEMS), help=f"of {', '.join(ITEMS)}; default all")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--false-images", type=int, default=400, metavar="N", help="clean images of item 2")
    parser.add_argument("--jobs", type=int, default=1, help="processes; one thread each")
    parser.add_argument("--device", default="cpu", help="auto, cpu or cuda; default cpu")
    parser.add_argument("--json", metavar="FILE", help="rows and all outcomes; - is stdout")
    parser.add_argument("--markdown", metavar="FILE", help="the table, for a document")
    options = parser.parse_args(argv)
    options.items = [item.strip() for item in options.items.split(",") if item.strip()]
    unknown = sorted(set(options.items) - set(ITEMS))
    if unknown:
        parser.error(f"--items knows {', '.join(ITEMS)}, got {', '.join(unknown)}")
    if options.jobs < 1 or options.false_images < 1:
        parser.error("--jobs and --false-images must be at least 1")
    if options.device != "cpu" and backend.resolve_device(options.device)[0] != "cpu" and options.jobs > 1:
        parser.error("--jobs is for the CPU; a device has one process")
    return options


def run_task(task: Task, device: str = "cpu") -> Outcome:
    """The finder on one scene."""
    recipe, seed, changes = task
    find = functools.partial(streaks.find_streaks, config=streaks.StreakConfig(**dict(changes)))
    return search(
        find,
        make_scene(recipe, seed),
        seed=seed,
        device=functools.partial(backend.to_device, device=device),
        host=backend.to_host,
    )


class Runner:
    """Outcomes of scenes, each of them run once."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.outcomes: dict[Task, Outcome] = {}

    def tasks(self, series: Series) -> list[Task]:
        """The scenes of a series."""
        n = min(series.scenes, 3) if self.options.quick else series.scenes
        first = self.options.seed * SERIES_STRIDE
        return [(series.recipe, first + k, tuple(series.config.items())) for k in range(n)]

    def clean_tasks(self) -> dict[str, list[Task]]:
        """The images without trails, by kind; no two share their noise."""
        total = 20 if self.options.quick else self.options.false_images
        first = self.options.seed * SERIES_STRIDE + SERIES_STRIDE // 2
        return {
            name: [(recipe, first + i * KIND_STRIDE + k, ()) for k in range(len(range(i, total, len(CLEAN))))]
            for i, (name, recipe) in enumerate(CLEAN)
        }

    def wanted(self, series: Iterable[Series]) -> list[Series]:
        """Those that the options allow."""
        return [one for one in series if not (self.options.quick and max(one.recipe.shape) > 1024)]

    def run(self, tasks: Iterable[Task]) -> None:
        """Run those that were not run, the largest first."""
        new = sorted({*tasks} - {*self.outcomes}, key=lambda task: -task[0].shape[0] * task[0].shape[1])
        work = functools.partial(run_task, device=self.options.device)
        if self.options.jobs == 1:
            results: Iterable[Outcome] = map(work, new)
            self._collect(new, results)
        else:
            with multiprocessing.get_context("spawn").Pool(self.options.jobs) as pool:
                self._collect(new, pool.imap(work, new))

    def _collect(self, tasks: Sequence[Task], results: Iterable[Outcome]) -> None:
        for n, (task, outcome) in enumerate(zip(tasks, results), 1):
            self.outcomes[task] = outcome
            if n % 50 == 0:
                say(f"{n} of {len(tasks)} scenes")

    def of(self, tasks: Iterable[Task]) -> list[Outcome]:
        """Outcomes in order."""
        return [self.outcomes[task] for task in tasks]


def scene_rows(runner: Runner) -> dict[str, Callable[[], list[Row]]]:
    """By item, what makes its rows out of outcomes; the scenes they need are run by calling `runner.run` before."""
    items: dict[str, tuple[list[Task], Callable[[], list[Row]]]] = {}

    def series_item(name: str, series: Sequence[Series], make: Callable[..., Row]) -> None:
        chosen = runner.wanted(series)
        tasks = [task for one in chosen for task in runner.tasks(one)]
        items[name] = tasks, lambda: [make(name, one, runner.of(runner.tasks(one))) for one in chosen]

    def closer_item(name: str, make: Callable[..., list[Row]]) -> None:
        tasks = {key: runner.tasks(one) for key, one in LOOK_CLOSER.items()}
        everything = [task for some in tasks.values() for task in some]
        items[name] = everything, lambda: make({key: runner.of(some) for key, some in tasks.items()})

    series_item("1", REQUIRED, completeness_row)
    series_item("rows", MEASURED, completeness_row)
    series_item("proposals", PROPOSED, proposal_row)
    closer_item("3", accuracy_rows)
    closer_item("4", mask_rows)
    clean = runner.clean_tasks()
    items["2"] = (
        [task for tasks in clean.values() for task in tasks],
        lambda: clean_rows({name: runner.of(tasks) for name, tasks in clean.items()}),
    )
    wanted = [name for name in runner.options.items if name in items]
    runner.run(task for name in wanted for task in items[name][0])
    return {name: items[name][1] for name in wanted}


def all_rows(runner: Runner) -> list[Row]:
    """Every row that was asked for, printed as it is made."""
    header = Row("item", "what", "prototype", "required", "ours", None)
    say(f"finder's source {source()} in {Path(streaks.__file__).parent}")
    say(header.line())
    rows: list[Row] = []
    from_scenes = scene_rows(runner)
    for name in runner.options.items:
        made = from_scenes[name]() if name in from_scenes else streak_checks.rows(name, runner.options)
        for row in made:
            say(row.line())
        rows += made
    return rows


def source() -> str:
    """Digest of the finder's own modules: says which code a table belongs to, committed or not."""
    folder = Path(streaks.__file__).parent
    digest = hashlib.sha256()
    for path in sorted([*folder.glob("line*.py"), *folder.glob("streak*.py")]):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def describe(options: argparse.Namespace) -> dict[str, Any]:
    """What the figures depend on."""
    return {
        "seed": options.seed,
        "quick": options.quick,
        "device": options.device,
        "source": source(),
        "jobs": options.jobs,
        "processor": processor(),
        "processors": processors(),
        "versions": versions("gpucoadd", "numpy", "scipy", "cupy-cuda12x", "cupy-cuda13x"),
        "config": asdict(streaks.StreakConfig()),
    }


def markdown(rows: Sequence[Row], settings: dict[str, Any]) -> str:
    """The table, with what it depends on."""
    found = ", ".join(f"{name} {version}" for name, version in settings["versions"].items())
    lines = [
        f"`python -m benchmarks.streaks --seed {settings['seed']}`{' --quick' if settings['quick'] else ''}; "
        f"{settings['device']}, {settings['processor']}; {found}; finder's source {settings['source']}.",
        "",
        "| item | what | prototype | required | ours | |",
        "|---|---|---|---|---|---|",
    ]
    lines += [f"| {' | '.join(row.cells())} |" for row in rows]
    return "\n".join(lines) + "\n"


def to_json(value: Any) -> Any:
    """NumPy's numbers and arrays as JSON has them."""
    return value.tolist() if isinstance(value, (np.ndarray, np.generic)) else str(value)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, write; 1 when something misses."""
    options = arguments(argv)
    runner = Runner(options)
    rows = all_rows(runner)
    settings = describe(options)
    if options.markdown:
        Path(options.markdown).write_text(markdown(rows, settings), encoding="utf-8")
    if options.json:
        outcomes = [
            {"recipe": asdict(recipe), "seed": seed, "config": dict(changes), **outcome._asdict()}
            for (recipe, seed, changes), outcome in runner.outcomes.items()
        ]
        text = json.dumps({**settings, "rows": [row._asdict() for row in rows], "scenes": outcomes}, default=to_json)
        if options.json == "-":
            print(text)
        else:
            Path(options.json).write_text(text + "\n", encoding="utf-8")
    missed = [row for row in rows if row.passed is False]
    say(f"{len(missed)} of {sum(row.passed is not None for row in rows)} requirements missed")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
