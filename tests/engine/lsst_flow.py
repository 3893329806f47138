"""Golden files as deferred warps of stand-in exposures, and the stages of the tasks on them, one by one."""

from types import SimpleNamespace

import afwlike
import numpy as np
from goldens import host

from gpucoadd.exposures import from_lsst
from gpucoadd.lsst import AssembleCoaddTask, CompareWarpAssembleCoaddTask


def as_afw(arrays, planes, xy0, sigma):
    psf = afwlike.Psf(np.full((5, 5), 0.04), sigma=sigma)
    return afwlike.Exposure.of(*arrays, afwlike.Planes(planes), xy0=xy0, psf=psf, wcs="a wcs")


def make_handles(golden, *, matched=False, make=as_afw, handle=afwlike.Handle):
    """One `handle` for each warp, or for each twin there is, of what `make` makes; with visits 100, 101, ..."""
    prefix = "in_m_" if matched else "in_"
    xy0 = tuple(golden["in_xy0"].tolist())
    handles = []
    for epoch, sigma in enumerate(golden[f"{prefix}sigma"].tolist()):
        if matched and not golden["in_has_matched"][epoch]:
            continue
        arrays = [golden[f"{prefix}{name}"][epoch].copy() for name in ("image", "variance", "mask")]
        handles.append(handle(make(arrays, golden.planes, xy0, sigma), visit=100 + epoch))
    return handles


def make_task(golden, **more):
    """The task that a golden is of, with its configuration."""
    task_class = AssembleCoaddTask if golden.meta.get("base_task") else CompareWarpAssembleCoaddTask
    config = task_class.ConfigClass()
    for name, value in (golden.overrides | more).items():
        *path, last = name.split(".")
        target = config
        for part in path:
            target = getattr(target, part)
        setattr(target, last, value)
    return task_class(config=config)


def sky_info(golden):
    height, width = golden["in_image"].shape[1:]
    x0, y0 = (int(value) for value in golden["in_xy0"])
    return SimpleNamespace(bbox=afwlike.Box2I.of(x0, y0, width, height), wcs="a wcs")


def run_stages(golden, *, task=None, sky=None, handles=make_handles, **more):
    """
    All stages as LSST's runQuantum calls them.

    Returns a namespace with what `goldens.check_coadd` looks at, and `exposure`, `struct`, `template_exposure`.
    """
    task = task or make_task(golden, doNImage=True, **more)
    sky = sky or sky_info(golden)
    direct = handles(golden)
    is_base = bool(golden.meta.get("base_task"))
    prepared = task.prepareInputs(direct, sky.bbox)
    lists = {name: getattr(prepared, name) for name in ("warpRefList", "imageScalerList", "weightList")}
    made = {}
    if not is_base:
        template = task.assembleStaticSkyModel
        inputs = template.prepareInputs(handles(golden, matched=True), sky.bbox)
        given = {name: getattr(inputs, name) for name in ("warpRefList", "imageScalerList", "weightList")}
        model = template.run(sky, **given).coaddExposure
        template.processResults(model)
        made["supplementaryData"] = SimpleNamespace(
            templateCoadd=model, warpRefList=inputs.warpRefList, imageScalerList=inputs.imageScalerList
        )
    struct = task.run(sky, **lists, **made)
    task.processResults(struct.coaddExposure)
    coadd = from_lsst(struct.coaddExposure)
    result = {name: getattr(coadd, name) for name in ("image", "variance", "mask", "schema", "origin", "unit")}
    result["epochs"] = [ref.dataId["visit"] - 100 for ref in struct.warpRefList]
    counts = struct.nImage
    result |= {
        "weights": np.array(struct.weightList),
        "n_image": counts.image if hasattr(counts, "image") else counts.array,
    }
    result |= {"struct": struct, "exposure": struct.coaddExposure, "task": task}
    if not is_base:
        found = getattr(struct.altMaskList, "artifacts", None)  # none where somebody made lists
        planes = ("template_footprints", "epoch_count", "n_image_matched", "clipped", "no_data", "edge")
        for name in ("variance_scale", *planes) if found is not None else ():
            result[name] = host(getattr(found, name))
        result |= {"template": from_lsst(model), "template_exposure": model}
    return SimpleNamespace(**result)
