"""Do we agree with LSST? Frozen outputs, described in data/README.md; and does our second opinion agree with them?"""

from __future__ import annotations

from types import SimpleNamespace

import goldens
import numpy as np
import oracles
import pytest

import gpucoadd

PATHS = goldens.paths()


@pytest.mark.parametrize("path", PATHS, ids=lambda p: p.stem)
def test_agrees_with_lsst(path, xp):
    golden = goldens.load(path)
    if golden.name.startswith("stack_statistics"):
        goldens.check_statistics(golden, xp.asarray)
        return
    warps = goldens.warp_stack(golden, xp.asarray)
    if golden.meta.get("expected_error"):
        with pytest.raises(gpucoadd.NoWorkFound, match=r"none of the .* epochs can be used"):
            goldens.run(golden, warps)
    elif golden.overrides.get("doFilterMorphological"):
        plain = golden._replace(
            meta={**golden.meta, "config_overrides": {**golden.overrides, "doFilterMorphological": False}}
        )
        goldens.check_streaks(goldens.run(golden, warps), goldens.run(plain, warps), golden)
    else:
        goldens.check_coadd(goldens.run(golden, warps), golden)


@pytest.mark.parametrize("path", [p for p in PATHS if "statistics" not in p.stem], ids=lambda p: p.stem)
def test_the_oracle_agrees_with_lsst(path):
    golden = goldens.load(path)
    if golden.overrides.get("doFilterMorphological"):
        pytest.skip("the oracle finds no lines")
    is_base = bool(golden.meta.get("base_task"))
    if golden.meta.get("expected_error"):
        with pytest.raises(oracles.NoWorkFound):
            goldens.from_oracle(golden.arrays, golden.planes, golden.overrides)
        return
    oracle = goldens.from_oracle(golden.arrays, golden.planes, golden.overrides, base_task=is_base)
    x0, y0 = golden["in_xy0"]
    result = {"image": oracle["out_coadd_image"], "variance": oracle["out_coadd_variance"]}
    result |= {"mask": oracle["out_coadd_mask"], "schema": golden.schema, "origin": (y0, x0), "unit": "nJy"}
    result |= {"epochs": oracle["out_used_epochs"], "weights": oracle["out_weights"], "n_image": oracle["out_n_image"]}
    if not is_base:
        template = {k: oracle[f"out_template_{k}"] for k in ("image", "variance", "mask")}
        result["template"] = SimpleNamespace(**template, schema=golden.schema)
        for name, key in (
            ("template_footprints", "template_footprints"),
            ("variance_scale", "variance_scale"),
            ("epoch_count", "epoch_count"),
            ("n_image_matched", "n_image_diff"),
            ("clipped", "alt_clipped"),
            ("no_data", "alt_no_data"),
            ("edge", "alt_edge"),
        ):
            result[name] = oracle[f"out_{key}"]
        np.testing.assert_array_equal(oracle["out_candidates"], golden["out_candidates"])
        np.testing.assert_array_equal(oracle["out_candidates_prefiltered"], golden["out_candidates_prefiltered"])
    goldens.check_coadd(SimpleNamespace(**result), golden)
