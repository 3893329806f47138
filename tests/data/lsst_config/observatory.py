# Written for these tests: what an observatory's package changes for the artifact-rejecting coadd.
import os.path

config.load(os.path.join(os.path.dirname(__file__), "common.py"))

config.doAttachTransmissionCurve = True
config.hasFakes = False
config.badMaskPlanes = ["NO_DATA", "BAD", "CR", "SUSPECT"]
config.badMaskPlanes.append("CROSSTALK")
config.removeMaskPlanes.remove("NOT_DEBLENDED")
config.removeMaskPlanes.append("CROSSTALK")
config.maskPropagationThresholds["CROSSTALK"] = 0.1

for detection in (config.detect, config.detectTemplate):
    detection.background.useApprox = False
    detection.tempLocalBackground.binSize = 64
    detection.excludeMaskPlanes = ["VIGNETTED"]

config.interpImage.transpose = True
config.assembleStaticSkyModel.interpImage.transpose = True
config.connections.outputCoaddName = "goodSeeing"
