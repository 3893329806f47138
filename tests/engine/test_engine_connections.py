"""Datasets of the coadd tasks: names, classes, dimensions, and which of them a configuration asks for."""

from __future__ import annotations

import pytest
from config_tools import put

from gpucoadd.lsst import AssembleCoaddConfig, CompareWarpAssembleCoaddConfig

WARP = {"instrument", "visit", "skymap", "tract", "patch"}
COADD = {"tract", "patch", "band", "skymap"}
ALL = {
    "doSelectVisits": True,
    "doMaskBrightObjects": True,
    "doNImage": True,
    "doInputMap": True,
    "doWriteArtifactMasks": True,
    "assembleStaticSkyModel.doWrite": True,
}
# connection: name, storage classes of the three kinds, dimensions
TABLE = {
    "inputWarps": ("direct_warp", ("ExposureF", "MaskedImageV2", "PlainMaskedImage"), WARP),
    "psfMatchedWarps": ("psf_matched_warp", ("ExposureF", "MaskedImageV2", "PlainMaskedImage"), WARP),
    "skyMap": ("skyMap", ("SkyMap", None, None), {"skymap"}),
    "selectedVisits": ("deep_coadd_visits", ("StructuredDataDict",) * 3, COADD),
    "brightObjectMask": ("brightObjectMask", ("ObjectMaskCatalog", "ObjectMaskCatalog", "AstropyTable"), COADD),
    "coaddExposure": ("deep_coadd_predetection", ("ExposureF", "MaskedImageV2", "PlainMaskedImage"), COADD),
    "nImage": ("deep_coadd_n_image", ("ImageU", "ImageV2", "PlainImage"), COADD),
    "inputMap": ("deep_coadd_input_map", ("HealSparseMap", "HealSparseMap", None), COADD),
    "templateCoadd": ("deep_coadd_compare_template", ("ExposureF", "MaskedImageV2", "PlainMaskedImage"), COADD),
    "artifactMasks": ("compare_warp_artifact_mask", ("Mask", "MaskV2", "PlainMask"), WARP),
}
OF_THE_SEARCH = {"psfMatchedWarps", "templateCoadd", "artifactMasks"}


def connections(names, config_class=CompareWarpAssembleCoaddConfig):
    config = put(config_class(), names)
    config.validate()
    return config.ConnectionsClass(config=config)


@pytest.mark.parametrize("kind", [0, 1, 2])
def test_everything(kind):
    storage = ("ExposureF", "MaskedImageV2", "PlainMaskedImage")[kind]
    made = connections({**ALL, "inputStorageClass": storage, "doInputMap": TABLE["inputMap"][1][kind] is not None})
    assert made.dimensions == COADD
    found = {name: (c.name, c.storageClass, set(c.dimensions)) for name, c in made.allConnections.items()}
    wanted = {name: (row[0], row[1][kind], row[2]) for name, row in TABLE.items() if row[1][kind] is not None}
    assert found == wanted
    assert made.inputs == {"inputWarps", "psfMatchedWarps", "selectedVisits", "skyMap"} & found.keys()
    assert made.prerequisiteInputs == {"brightObjectMask"}
    outputs = {"coaddExposure", "nImage", "inputMap", "templateCoadd", "artifactMasks"}
    assert made.outputs == outputs & wanted.keys()


def test_how_they_are_read():
    made = connections(ALL)
    assert {name for name, c in made.allConnections.items() if getattr(c, "deferLoad", False)} == {
        "inputWarps",
        "psfMatchedWarps",
    }
    assert {name for name, c in made.allConnections.items() if c.multiple} == {
        "inputWarps",
        "psfMatchedWarps",
        "artifactMasks",
    }
    minima = {name: made.allConnections[name].minimum for name in (*made.inputs, *made.prerequisiteInputs)}
    assert {name for name, minimum in minima.items() if minimum == 0} == {"psfMatchedWarps", "brightObjectMask"}


def test_defaults():
    assert set(connections({}).allConnections) == {"inputWarps", "psfMatchedWarps", "skyMap", "coaddExposure"}
    assert set(connections({}, AssembleCoaddConfig).allConnections) == {"inputWarps", "skyMap", "coaddExposure"}


@pytest.mark.parametrize("switch", ALL)
def test_each_switch(switch):
    asked = {
        "doSelectVisits": "selectedVisits",
        "doMaskBrightObjects": "brightObjectMask",
        "doNImage": "nImage",
        "doInputMap": "inputMap",
        "doWriteArtifactMasks": "artifactMasks",
        "assembleStaticSkyModel.doWrite": "templateCoadd",
    }
    made = connections({switch: True})
    assert set(made.allConnections) - set(connections({}).allConnections) == {asked[switch]}


@pytest.mark.parametrize("config_class", [AssembleCoaddConfig, CompareWarpAssembleCoaddConfig])
def test_psf_matched_warps_are_coadded_if_asked_for(config_class):
    assert connections({"warpType": "psfMatched"}, config_class).inputWarps.name == "psf_matched_warp"
    named = {"warpType": "psfMatched", "connections.inputWarps": "my_warp"}
    assert connections(named, config_class).inputWarps.name == "my_warp"
    assert connections({"connections.inputWarps": "my_warp"}, config_class).inputWarps.name == "my_warp"


def test_names_are_made_of_templates():
    made = connections({**ALL, "connections.outputCoaddName": "best", "connections.warpTypeSuffix": "_psf"})
    assert made.coaddExposure.name == "best_coadd_predetection_psf"
    assert made.templateCoadd.name == "best_coadd_compare_template_psf"
    assert (made.nImage.name, made.inputMap.name) == ("best_coadd_n_image", "best_coadd_input_map")
    assert connections({"connections.coaddExposure": "mine"}).coaddExposure.name == "mine"
