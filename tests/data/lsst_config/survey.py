# Written for these tests: the parameters of a survey, computed.
visits = 40
low, high = 0.5, 2 / visits

config.maxNumEpochs = 3
config.maxFractionEpochsLow, config.maxFractionEpochsHigh = low, high
config.prefilterArtifactsMaskPlanes = [plane for plane in config.prefilterArtifactsMaskPlanes if plane != "SUSPECT"]
config.detect.thresholdValue /= 1.5
config.detectTemplate.update(thresholdValue=100.0, nSigmaToGrow=3.0)
config.scaleWarpVariance.background.binSize = 64
config.scaleWarpVariance.maskPlanes += ["CR"]
if config.assembleStaticSkyModel.statistic == "MEANCLIP":
    config.assembleStaticSkyModel.clipIter += 1
setattr(config, "doNImage", True)
config.doWriteArtifactMasks = True
