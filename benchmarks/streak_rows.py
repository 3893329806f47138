"""Lines of the table: what a set of outcomes says next to what is required."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from streak_cases import Series
from streak_measures import Found, Outcome

DOUBT = 0.05  # a series found less often than the prototype's, by chance this rarely, is told as low


class Row(NamedTuple):
    """One line: `passed` is None where nothing is required."""

    item: str
    what: str
    reference: str
    required: str
    ours: str
    passed: bool | None

    def cells(self) -> tuple[str, ...]:
        """What is printed."""
        verdict = {True: "pass", False: "MISS", None: ""}[self.passed]
        return self.item, self.what, self.reference, self.required, self.ours, verdict

    def line(self) -> str:
        """For a terminal."""
        item, what, reference, required, ours, verdict = self.cells()
        return f"{item:<12}{what:<52}{reference:>10} {required:>12}  {ours:<44}{verdict}".rstrip()


def hits(outcomes: Iterable[Outcome]) -> list[Found]:
    """The trails that were found."""
    return [found for outcome in outcomes for found in outcome.found if found is not None]


def _others(outcomes: Sequence[Outcome]) -> str:
    """False lines and pieces, where there are some; which seeds."""
    text = ""
    for name, counts in (
        ("false", [len(outcome.false) for outcome in outcomes]),
        ("pieces", [outcome.pieces for outcome in outcomes]),
    ):
        if any(counts):
            seeds = ",".join(str(outcome.seed) for outcome, n in zip(outcomes, counts) if n)
            text += f", {sum(counts)} {name} (seed {seeds})"
    return text


def _missed(outcomes: Sequence[Outcome]) -> str:
    """Seeds of the scenes with a trail that was not found, if they are few."""
    seeds = [str(outcome.seed) for outcome in outcomes if None in outcome.found]
    return f", not {','.join(seeds)}" if 0 < len(seeds) <= 3 else ""


def at_least(share: tuple[int, int], total: int) -> int:
    """Of `total`, what `share` asks for."""
    return math.ceil(share[0] * total / share[1] - 1e-9) if total >= share[1] else share[0] * total // share[1]


def completeness_row(item: str, series: Series, outcomes: Sequence[Outcome]) -> Row:
    """Trails found of those planted; without a requirement, a word when they are fewer than the prototype's."""
    total, found = sum(len(outcome.found) for outcome in outcomes), len(hits(outcomes))
    ours = f"{found}/{total}{_others(outcomes)}{_missed(outcomes)}"
    if series.required is None:
        n, of = map(int, series.reference.split("/"))
        return Row(item, series.name, series.reference, "", ours + (" low" if low(found, total, n, of) else ""), None)
    needed = at_least(series.required, total)
    return Row(item, series.name, series.reference, f">= {needed}/{total}", ours, found >= needed)


def low(found: int, total: int, reference: int, of: int) -> bool:
    """Whether so few of `total` would hardly come about if `reference` of `of` had the same chance (Fisher's test)."""
    everything, successes = total + of, found + reference
    ways = math.comb(everything, successes)
    chance = sum(
        math.comb(total, k) * math.comb(of, successes - k) / ways for k in range(found + 1) if successes - k <= of
    )
    return chance < DOUBT


def proposal_row(item: str, series: Series, outcomes: Sequence[Outcome]) -> Row:
    """Trails found, and what is left of them outside the mask."""
    total, found = sum(len(outcome.found) for outcome in outcomes), len(hits(outcomes))
    rest = np.median([outcome.rest for outcome in outcomes])
    lost = np.median([outcome.lost for outcome in outcomes])
    ours = f"{found}/{total}{_others(outcomes)}; outside {rest:.2f} sigma, {lost:.1%} of the flux"
    return Row(item, series.name, "", "", ours, None)


def clean_rows(kinds: Mapping[str, Sequence[Outcome]]) -> list[Row]:
    """False lines by kind and sign; at most one in 400 of all."""
    rows = []
    for name, outcomes in kinds.items():
        up, down = (sum(line.sign == sign for outcome in outcomes for line in outcome.false) for sign in (1, -1))
        seeds = ",".join(str(outcome.seed) for outcome in outcomes if outcome.false)
        ours = f"{up} bright, {down} dark in {len(outcomes)}" + (f" (seed {seeds})" if seeds else "")
        rows.append(Row("2", f"false lines, {name}", "", "", ours, None))
    everything = [outcome for outcomes in kinds.values() for outcome in outcomes]
    false, images = sum(len(outcome.false) for outcome in everything), len(everything)
    allowed = max(1, images // 400)
    rows.append(
        Row("2", "false lines, all, both signs", "0/332", f"<= {allowed}/{images}", f"{false}", false <= allowed)
    )
    return rows


def _limit(item: str, what: str, reference: str, value: float, limit: float, form: str = ".2f") -> Row:
    passed = bool(value <= limit)  # NaN, nothing found, misses
    return Row(item, what, reference, f"<= {limit:{form}}", f"{value:{form}}", passed)


def _median(found: Sequence[Found], name: str) -> float:
    return float(np.median([getattr(one, name) for one in found])) if found else math.nan


def accuracy_rows(outcomes: Mapping[str, Sequence[Outcome]]) -> list[Row]:
    """Positions, crests, widths, ends."""
    rows = []
    for key, what, reference, limit in (
        ("faint", "position rms, a = 1", "0.47", 0.6),
        ("bright", "position rms, a = 3", "0.18", 0.25),
    ):
        offsets = np.array([one.offset for one in hits(outcomes[key])])
        rows.append(
            _limit("3", what, reference, float(np.sqrt((offsets**2).mean())) if offsets.size else math.nan, limit)
        )
    faint = hits(outcomes["faint"])
    ours = ", ".join(
        f"{name} {_median(faint, field):.2f}"
        for name, field in (("crest", "crest"), ("w", "width"), ("length", "length"), ("z/ideal", "ideal"))
    )
    rows.append(Row("3", "medians over the truth, a = 1", "0.99, 0.92", "", ours, None))
    for field, name, limit in (("crest", "crest", 0.07), ("width", "w", 0.10)):
        for key, what in (("bright", "a = 3"), ("very bright", "a = 10"), ("wide", "w = 5, a = 3")):
            errors = np.array([getattr(one, field) - 1 for one in hits(outcomes[key])] or [math.nan])
            rms = float(np.sqrt((errors**2).mean()))
            ours = f"{rms:.3f}, mean {errors.mean():+.3f}, worst {np.abs(errors).max():.2f}"
            rows.append(Row("3", f"{name}, relative error (rms), {what}", "", f"<= {limit:.2f}", ours, rms <= limit))
    for key, what in (
        ("short", "256 px, a = 2"),
        ("short, bright", "256 px, a = 5"),
        ("bright", "chord, a = 3"),
    ):
        ends = [one.end for one in hits(outcomes[key])]
        rows.append(_limit("3", f"ends, largest error in px, {what}", "", max(ends, default=math.nan), 40.0, ".0f"))
    return rows


def mask_rows(outcomes: Mapping[str, Sequence[Outcome]]) -> list[Row]:
    """What the mask leaves, and what it costs, where the trail was found."""
    rows = []
    for key, what in (("edge", "a = 1.5"), ("bright", "a = 3"), ("very bright", "a = 10"), ("wide", "w = 5, a = 3")):
        whole = [outcome for outcome in outcomes[key] if None not in outcome.found]
        rest = max((outcome.rest for outcome in whole), default=math.nan)
        area = max((outcome.area for outcome in whole), default=math.nan)
        rows.append(_limit("4", f"outside the mask, largest, {what}", "0.09", rest, 0.1, ".3f"))
        rows.append(_limit("4", f"masked over needed area, largest, {what}", "", area, 1.5))
    faint = [outcome for outcome in outcomes["faint"] if None not in outcome.found]
    rests = [outcome.rest for outcome in faint] or [math.nan]
    ours = f"median {np.median(rests):.2f}, largest {max(rests):.2f}"
    rows.append(Row("4", "outside the mask, a = 1", "0.31", "", ours, None))
    return rows
