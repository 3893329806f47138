import lsst.drp.tasks.assemble_coadd
assert type(config) is lsst.drp.tasks.assemble_coadd.CompareWarpAssembleCoaddConfig, f"config is of type {type(config).__module__}.{type(config).__name__} instead of lsst.drp.tasks.assemble_coadd.CompareWarpAssembleCoaddConfig"

import lsst.coadd.utils.coadd_inputs
import lsst.meas.algorithms.coaddPsf.coaddPsf
import lsst.meas.algorithms.detection
import lsst.meas.algorithms.gaussianPsfFactory
import lsst.meas.algorithms.maskStreaks
import lsst.meas.algorithms.scaleVariance
import lsst.meas.algorithms.subtractBackground
import lsst.pipe.base.config
import lsst.pipe.tasks.coaddInputRecorder
import lsst.pipe.tasks.healSparseMapping
import lsst.pipe.tasks.interpImage
import lsst.pipe.tasks.scaleZeroPoint
import lsst.pipe.tasks.selectImages
# What config.saveLogOutput is.
config.saveLogOutput=True

# What config.coaddName is.
config.coaddName='deep'

# What config.badMaskPlanes is.
config.badMaskPlanes=['NO_DATA', 'BAD', 'SAT']

# What config.includeCalibVar is.
config.includeCalibVar=False

# What config.warpType is.
config.warpType='direct'

# What config.subregionSize is.
config.subregionSize=[2000, 2000]

# What config.statistic is.
config.statistic='MEAN'

# What config.doOnlineForMean is.
config.doOnlineForMean=False

# What config.sigmaClip is.
config.sigmaClip=3.0

# What config.clipIter is.
config.clipIter=2

# What config.calcErrorFromInputVariance is.
config.calcErrorFromInputVariance=True

# What config.doScaleZeroPoint is.
config.doScaleZeroPoint=False

# What config.doInterp is.
config.doInterp=True

# What config.interpImage.useFallbackValueAtEdge is.
config.interpImage.useFallbackValueAtEdge=True

# What config.interpImage.fallbackValueType is.
config.interpImage.fallbackValueType='MEDIAN'

# What config.interpImage.fallbackUserValue is.
config.interpImage.fallbackUserValue=0.0

# What config.interpImage.negativeFallbackAllowed is.
config.interpImage.negativeFallbackAllowed=False

# What config.interpImage.transpose is.
config.interpImage.transpose=False

# What config.interpImage.modelPsf.size is.
config.interpImage.modelPsf.size=None

# What config.interpImage.modelPsf.sizeFactor is.
config.interpImage.modelPsf.sizeFactor=3.0

# What config.interpImage.modelPsf.minSize is.
config.interpImage.modelPsf.minSize=5

# What config.interpImage.modelPsf.maxSize is.
config.interpImage.modelPsf.maxSize=None

# What config.interpImage.modelPsf.defaultFwhm is.
config.interpImage.modelPsf.defaultFwhm=3.0

# What config.interpImage.modelPsf.addWing is.
config.interpImage.modelPsf.addWing=True

# What config.interpImage.modelPsf.wingFwhmFactor is.
config.interpImage.modelPsf.wingFwhmFactor=2.5

# What config.interpImage.modelPsf.wingAmplitude is.
config.interpImage.modelPsf.wingAmplitude=0.1

# What config.doWrite is.
config.doWrite=True

# What config.doWriteArtifactMasks is.
config.doWriteArtifactMasks=False

# What config.doNImage is.
config.doNImage=False

# What config.maskPropagationThresholds is.
config.maskPropagationThresholds={'SAT': 0.1}

# What config.removeMaskPlanes is.
config.removeMaskPlanes=['NOT_DEBLENDED', 'EDGE']

# What config.doMaskBrightObjects is.
config.doMaskBrightObjects=False

# What config.brightObjectMaskName is.
config.brightObjectMaskName='BRIGHT_OBJECT'

# What config.coaddPsf.cacheSize is.
config.coaddPsf.cacheSize=0

# What config.coaddPsf.warpingKernelName is.
config.coaddPsf.warpingKernelName='lanczos3'

# What config.doAttachTransmissionCurve is.
config.doAttachTransmissionCurve=False

# What config.hasFakes is.
config.hasFakes=False

# What config.doSelectVisits is.
config.doSelectVisits=False

# What config.doInputMap is.
config.doInputMap=False

# What config.inputMapper.nside is.
config.inputMapper.nside=32768

# What config.inputMapper.nside_coverage is.
config.inputMapper.nside_coverage=256

# What config.inputMapper.bad_mask_min_coverage is.
config.inputMapper.bad_mask_min_coverage=0.5

# What config.assembleStaticSkyModel.connections.inputWarps is.
config.assembleStaticSkyModel.connections.inputWarps='direct_warp'

# What config.assembleStaticSkyModel.connections.skyMap is.
config.assembleStaticSkyModel.connections.skyMap='skyMap'

# What config.assembleStaticSkyModel.connections.selectedVisits is.
config.assembleStaticSkyModel.connections.selectedVisits='{outputCoaddName}_coadd_visits'

# What config.assembleStaticSkyModel.connections.brightObjectMask is.
config.assembleStaticSkyModel.connections.brightObjectMask='brightObjectMask'

# What config.assembleStaticSkyModel.connections.coaddExposure is.
config.assembleStaticSkyModel.connections.coaddExposure='{outputCoaddName}_coadd_predetection{warpTypeSuffix}'

# What config.assembleStaticSkyModel.connections.nImage is.
config.assembleStaticSkyModel.connections.nImage='{outputCoaddName}_coadd_n_image'

# What config.assembleStaticSkyModel.connections.inputMap is.
config.assembleStaticSkyModel.connections.inputMap='{outputCoaddName}_coadd_input_map'

# What config.assembleStaticSkyModel.connections.inputCoaddName is.
config.assembleStaticSkyModel.connections.inputCoaddName='deep'

# What config.assembleStaticSkyModel.connections.outputCoaddName is.
config.assembleStaticSkyModel.connections.outputCoaddName='deep'

# What config.assembleStaticSkyModel.connections.warpType is.
config.assembleStaticSkyModel.connections.warpType='direct'

# What config.assembleStaticSkyModel.connections.warpTypeSuffix is.
config.assembleStaticSkyModel.connections.warpTypeSuffix=''

# What config.assembleStaticSkyModel.saveLogOutput is.
config.assembleStaticSkyModel.saveLogOutput=True

# What config.assembleStaticSkyModel.coaddName is.
config.assembleStaticSkyModel.coaddName='deep'

# What config.assembleStaticSkyModel.badMaskPlanes is.
config.assembleStaticSkyModel.badMaskPlanes=['NO_DATA']

# What config.assembleStaticSkyModel.includeCalibVar is.
config.assembleStaticSkyModel.includeCalibVar=False

# What config.assembleStaticSkyModel.warpType is.
config.assembleStaticSkyModel.warpType='psfMatched'

# What config.assembleStaticSkyModel.subregionSize is.
config.assembleStaticSkyModel.subregionSize=[2000, 2000]

# What config.assembleStaticSkyModel.statistic is.
config.assembleStaticSkyModel.statistic='MEANCLIP'

# What config.assembleStaticSkyModel.doOnlineForMean is.
config.assembleStaticSkyModel.doOnlineForMean=False

# What config.assembleStaticSkyModel.sigmaClip is.
config.assembleStaticSkyModel.sigmaClip=2.5

# What config.assembleStaticSkyModel.clipIter is.
config.assembleStaticSkyModel.clipIter=3

# What config.assembleStaticSkyModel.calcErrorFromInputVariance is.
config.assembleStaticSkyModel.calcErrorFromInputVariance=True

# What config.assembleStaticSkyModel.doScaleZeroPoint is.
config.assembleStaticSkyModel.doScaleZeroPoint=False

# What config.assembleStaticSkyModel.doInterp is.
config.assembleStaticSkyModel.doInterp=True

# What config.assembleStaticSkyModel.interpImage.useFallbackValueAtEdge is.
config.assembleStaticSkyModel.interpImage.useFallbackValueAtEdge=True

# What config.assembleStaticSkyModel.interpImage.fallbackValueType is.
config.assembleStaticSkyModel.interpImage.fallbackValueType='MEDIAN'

# What config.assembleStaticSkyModel.interpImage.fallbackUserValue is.
config.assembleStaticSkyModel.interpImage.fallbackUserValue=0.0

# What config.assembleStaticSkyModel.interpImage.negativeFallbackAllowed is.
config.assembleStaticSkyModel.interpImage.negativeFallbackAllowed=False

# What config.assembleStaticSkyModel.interpImage.transpose is.
config.assembleStaticSkyModel.interpImage.transpose=False

# What config.assembleStaticSkyModel.interpImage.modelPsf.size is.
config.assembleStaticSkyModel.interpImage.modelPsf.size=None

# What config.assembleStaticSkyModel.interpImage.modelPsf.sizeFactor is.
config.assembleStaticSkyModel.interpImage.modelPsf.sizeFactor=3.0

# What config.assembleStaticSkyModel.interpImage.modelPsf.minSize is.
config.assembleStaticSkyModel.interpImage.modelPsf.minSize=5

# What config.assembleStaticSkyModel.interpImage.modelPsf.maxSize is.
config.assembleStaticSkyModel.interpImage.modelPsf.maxSize=None

# What config.assembleStaticSkyModel.interpImage.modelPsf.defaultFwhm is.
config.assembleStaticSkyModel.interpImage.modelPsf.defaultFwhm=3.0

# What config.assembleStaticSkyModel.interpImage.modelPsf.addWing is.
config.assembleStaticSkyModel.interpImage.modelPsf.addWing=True

# What config.assembleStaticSkyModel.interpImage.modelPsf.wingFwhmFactor is.
config.assembleStaticSkyModel.interpImage.modelPsf.wingFwhmFactor=2.5

# What config.assembleStaticSkyModel.interpImage.modelPsf.wingAmplitude is.
config.assembleStaticSkyModel.interpImage.modelPsf.wingAmplitude=0.1

# What config.assembleStaticSkyModel.doWrite is.
config.assembleStaticSkyModel.doWrite=False

# What config.assembleStaticSkyModel.doWriteArtifactMasks is.
config.assembleStaticSkyModel.doWriteArtifactMasks=False

# What config.assembleStaticSkyModel.doNImage is.
config.assembleStaticSkyModel.doNImage=False

# What config.assembleStaticSkyModel.maskPropagationThresholds is.
config.assembleStaticSkyModel.maskPropagationThresholds={'SAT': 0.1}

# What config.assembleStaticSkyModel.removeMaskPlanes is.
config.assembleStaticSkyModel.removeMaskPlanes=['NOT_DEBLENDED']

# What config.assembleStaticSkyModel.doMaskBrightObjects is.
config.assembleStaticSkyModel.doMaskBrightObjects=False

# What config.assembleStaticSkyModel.brightObjectMaskName is.
config.assembleStaticSkyModel.brightObjectMaskName='BRIGHT_OBJECT'

# What config.assembleStaticSkyModel.coaddPsf.cacheSize is.
config.assembleStaticSkyModel.coaddPsf.cacheSize=0

# What config.assembleStaticSkyModel.coaddPsf.warpingKernelName is.
config.assembleStaticSkyModel.coaddPsf.warpingKernelName='lanczos3'

# What config.assembleStaticSkyModel.doAttachTransmissionCurve is.
config.assembleStaticSkyModel.doAttachTransmissionCurve=False

# What config.assembleStaticSkyModel.hasFakes is.
config.assembleStaticSkyModel.hasFakes=False

# What config.assembleStaticSkyModel.doSelectVisits is.
config.assembleStaticSkyModel.doSelectVisits=False

# What config.assembleStaticSkyModel.doInputMap is.
config.assembleStaticSkyModel.doInputMap=False

# What config.assembleStaticSkyModel.inputMapper.nside is.
config.assembleStaticSkyModel.inputMapper.nside=32768

# What config.assembleStaticSkyModel.inputMapper.nside_coverage is.
config.assembleStaticSkyModel.inputMapper.nside_coverage=256

# What config.assembleStaticSkyModel.inputMapper.bad_mask_min_coverage is.
config.assembleStaticSkyModel.inputMapper.bad_mask_min_coverage=0.5

# What config.assembleStaticSkyModel.inputRecorder.saveEmptyCcds is.
config.assembleStaticSkyModel.inputRecorder.saveEmptyCcds=False

# What config.assembleStaticSkyModel.inputRecorder.saveErrorCcds is.
config.assembleStaticSkyModel.inputRecorder.saveErrorCcds=False

# What config.assembleStaticSkyModel.inputRecorder.saveVisitGoodPix is.
config.assembleStaticSkyModel.inputRecorder.saveVisitGoodPix=False

# What config.assembleStaticSkyModel.scaleZeroPoint.zeroPoint is.
config.assembleStaticSkyModel.scaleZeroPoint.zeroPoint=31.4

# What config.detect.minPixels is.
config.detect.minPixels=4

# What config.detect.isotropicGrow is.
config.detect.isotropicGrow=True

# What config.detect.combinedGrow is.
config.detect.combinedGrow=True

# What config.detect.nSigmaToGrow is.
config.detect.nSigmaToGrow=0.4

# What config.detect.returnOriginalFootprints is.
config.detect.returnOriginalFootprints=False

# What config.detect.thresholdValue is.
config.detect.thresholdValue=7.5

# What config.detect.includeThresholdMultiplier is.
config.detect.includeThresholdMultiplier=1.0

# What config.detect.thresholdType is.
config.detect.thresholdType='pixel_stdev'

# What config.detect.thresholdPolarity is.
config.detect.thresholdPolarity='both'

# What config.detect.adjustBackground is.
config.detect.adjustBackground=0.0

# What config.detect.reEstimateBackground is.
config.detect.reEstimateBackground=False

# What config.detect.doApplyFlatBackgroundRatio is.
config.detect.doApplyFlatBackgroundRatio=False

# What config.detect.doTempLocalBackground is.
config.detect.doTempLocalBackground=False

# What config.detect.doTempWideBackground is.
config.detect.doTempWideBackground=False

# What config.detect.nPeaksMaxSimple is.
config.detect.nPeaksMaxSimple=1

# What config.detect.nSigmaForKernel is.
config.detect.nSigmaForKernel=7.0

# What config.detect.statsMask is.
config.detect.statsMask=['BAD', 'SAT', 'EDGE', 'NO_DATA']

# What config.detect.excludeMaskPlanes is.
config.detect.excludeMaskPlanes=[]

# What config.detect.background.statisticsProperty is.
config.detect.background.statisticsProperty='MEANCLIP'

# What config.detect.background.undersampleStyle is.
config.detect.background.undersampleStyle='REDUCE_INTERP_ORDER'

# What config.detect.background.binSize is.
config.detect.background.binSize=128

# What config.detect.background.binSizeX is.
config.detect.background.binSizeX=0

# What config.detect.background.binSizeY is.
config.detect.background.binSizeY=0

# What config.detect.background.algorithm is.
config.detect.background.algorithm='AKIMA_SPLINE'

# What config.detect.background.ignoredPixelMask is.
config.detect.background.ignoredPixelMask=['BAD', 'EDGE', 'DETECTED', 'DETECTED_NEGATIVE', 'NO_DATA']

# What config.detect.background.isNanSafe is.
config.detect.background.isNanSafe=False

# What config.detect.background.useApprox is.
config.detect.background.useApprox=True

# What config.detect.background.approxOrderX is.
config.detect.background.approxOrderX=6

# What config.detect.background.approxOrderY is.
config.detect.background.approxOrderY=-1

# What config.detect.background.weighting is.
config.detect.background.weighting=True

# What config.detect.background.doApplyFlatBackgroundRatio is.
config.detect.background.doApplyFlatBackgroundRatio=False

# What config.detect.background.doFilterSuperPixels is.
config.detect.background.doFilterSuperPixels=False

# What config.detect.background.superPixelFilterSize is.
config.detect.background.superPixelFilterSize=3

# What config.detect.tempLocalBackground.statisticsProperty is.
config.detect.tempLocalBackground.statisticsProperty='MEANCLIP'

# What config.detect.tempLocalBackground.undersampleStyle is.
config.detect.tempLocalBackground.undersampleStyle='REDUCE_INTERP_ORDER'

# What config.detect.tempLocalBackground.binSize is.
config.detect.tempLocalBackground.binSize=64

# What config.detect.tempLocalBackground.binSizeX is.
config.detect.tempLocalBackground.binSizeX=0

# What config.detect.tempLocalBackground.binSizeY is.
config.detect.tempLocalBackground.binSizeY=0

# What config.detect.tempLocalBackground.algorithm is.
config.detect.tempLocalBackground.algorithm='AKIMA_SPLINE'

# What config.detect.tempLocalBackground.ignoredPixelMask is.
config.detect.tempLocalBackground.ignoredPixelMask=['BAD', 'EDGE', 'DETECTED', 'DETECTED_NEGATIVE', 'NO_DATA']

# What config.detect.tempLocalBackground.isNanSafe is.
config.detect.tempLocalBackground.isNanSafe=False

# What config.detect.tempLocalBackground.useApprox is.
config.detect.tempLocalBackground.useApprox=False

# What config.detect.tempLocalBackground.approxOrderX is.
config.detect.tempLocalBackground.approxOrderX=6

# What config.detect.tempLocalBackground.approxOrderY is.
config.detect.tempLocalBackground.approxOrderY=-1

# What config.detect.tempLocalBackground.weighting is.
config.detect.tempLocalBackground.weighting=True

# What config.detect.tempLocalBackground.doApplyFlatBackgroundRatio is.
config.detect.tempLocalBackground.doApplyFlatBackgroundRatio=False

# What config.detect.tempLocalBackground.doFilterSuperPixels is.
config.detect.tempLocalBackground.doFilterSuperPixels=False

# What config.detect.tempLocalBackground.superPixelFilterSize is.
config.detect.tempLocalBackground.superPixelFilterSize=3

# What config.detect.tempWideBackground.statisticsProperty is.
config.detect.tempWideBackground.statisticsProperty='MEANCLIP'

# What config.detect.tempWideBackground.undersampleStyle is.
config.detect.tempWideBackground.undersampleStyle='REDUCE_INTERP_ORDER'

# What config.detect.tempWideBackground.binSize is.
config.detect.tempWideBackground.binSize=512

# What config.detect.tempWideBackground.binSizeX is.
config.detect.tempWideBackground.binSizeX=0

# What config.detect.tempWideBackground.binSizeY is.
config.detect.tempWideBackground.binSizeY=0

# What config.detect.tempWideBackground.algorithm is.
config.detect.tempWideBackground.algorithm='AKIMA_SPLINE'

# What config.detect.tempWideBackground.ignoredPixelMask is.
config.detect.tempWideBackground.ignoredPixelMask=['BAD', 'EDGE', 'DETECTED', 'DETECTED_NEGATIVE', 'NO_DATA']

# What config.detect.tempWideBackground.isNanSafe is.
config.detect.tempWideBackground.isNanSafe=False

# What config.detect.tempWideBackground.useApprox is.
config.detect.tempWideBackground.useApprox=False

# What config.detect.tempWideBackground.approxOrderX is.
config.detect.tempWideBackground.approxOrderX=6

# What config.detect.tempWideBackground.approxOrderY is.
config.detect.tempWideBackground.approxOrderY=-1

# What config.detect.tempWideBackground.weighting is.
config.detect.tempWideBackground.weighting=True

# What config.detect.tempWideBackground.doApplyFlatBackgroundRatio is.
config.detect.tempWideBackground.doApplyFlatBackgroundRatio=False

# What config.detect.tempWideBackground.doFilterSuperPixels is.
config.detect.tempWideBackground.doFilterSuperPixels=False

# What config.detect.tempWideBackground.superPixelFilterSize is.
config.detect.tempWideBackground.superPixelFilterSize=3

# What config.detectTemplate.minPixels is.
config.detectTemplate.minPixels=1

# What config.detectTemplate.isotropicGrow is.
config.detectTemplate.isotropicGrow=True

# What config.detectTemplate.combinedGrow is.
config.detectTemplate.combinedGrow=True

# What config.detectTemplate.nSigmaToGrow is.
config.detectTemplate.nSigmaToGrow=2.4

# What config.detectTemplate.returnOriginalFootprints is.
config.detectTemplate.returnOriginalFootprints=False

# What config.detectTemplate.thresholdValue is.
config.detectTemplate.thresholdValue=300.0

# What config.detectTemplate.includeThresholdMultiplier is.
config.detectTemplate.includeThresholdMultiplier=1.0

# What config.detectTemplate.thresholdType is.
config.detectTemplate.thresholdType='pixel_stdev'

# What config.detectTemplate.thresholdPolarity is.
config.detectTemplate.thresholdPolarity='positive'

# What config.detectTemplate.adjustBackground is.
config.detectTemplate.adjustBackground=0.0

# What config.detectTemplate.reEstimateBackground is.
config.detectTemplate.reEstimateBackground=True

# What config.detectTemplate.doApplyFlatBackgroundRatio is.
config.detectTemplate.doApplyFlatBackgroundRatio=False

# What config.detectTemplate.doTempLocalBackground is.
config.detectTemplate.doTempLocalBackground=True

# What config.detectTemplate.doTempWideBackground is.
config.detectTemplate.doTempWideBackground=False

# What config.detectTemplate.nPeaksMaxSimple is.
config.detectTemplate.nPeaksMaxSimple=1

# What config.detectTemplate.nSigmaForKernel is.
config.detectTemplate.nSigmaForKernel=7.0

# What config.detectTemplate.statsMask is.
config.detectTemplate.statsMask=['BAD', 'SAT', 'EDGE', 'NO_DATA']

# What config.detectTemplate.excludeMaskPlanes is.
config.detectTemplate.excludeMaskPlanes=[]

# What config.detectTemplate.background.useApprox is.
config.detectTemplate.background.useApprox=False

# What config.detectTemplate.background.statisticsProperty is.
config.detectTemplate.background.statisticsProperty='MEANCLIP'

# What config.detectTemplate.background.undersampleStyle is.
config.detectTemplate.background.undersampleStyle='REDUCE_INTERP_ORDER'

# What config.detectTemplate.background.binSize is.
config.detectTemplate.background.binSize=128

# What config.detectTemplate.background.binSizeX is.
config.detectTemplate.background.binSizeX=0

# What config.detectTemplate.background.binSizeY is.
config.detectTemplate.background.binSizeY=0

# What config.detectTemplate.background.algorithm is.
config.detectTemplate.background.algorithm='AKIMA_SPLINE'

# What config.detectTemplate.background.ignoredPixelMask is.
config.detectTemplate.background.ignoredPixelMask=['BAD', 'EDGE', 'DETECTED', 'DETECTED_NEGATIVE', 'NO_DATA']

# What config.detectTemplate.background.isNanSafe is.
config.detectTemplate.background.isNanSafe=False

# What config.detectTemplate.background.approxOrderX is.
config.detectTemplate.background.approxOrderX=6

# What config.detectTemplate.background.approxOrderY is.
config.detectTemplate.background.approxOrderY=-1

# What config.detectTemplate.background.weighting is.
config.detectTemplate.background.weighting=True

# What config.detectTemplate.background.doApplyFlatBackgroundRatio is.
config.detectTemplate.background.doApplyFlatBackgroundRatio=False

# What config.detectTemplate.background.doFilterSuperPixels is.
config.detectTemplate.background.doFilterSuperPixels=False

# What config.detectTemplate.background.superPixelFilterSize is.
config.detectTemplate.background.superPixelFilterSize=3

# What config.detectTemplate.tempLocalBackground.statisticsProperty is.
config.detectTemplate.tempLocalBackground.statisticsProperty='MEANCLIP'

# What config.detectTemplate.tempLocalBackground.undersampleStyle is.
config.detectTemplate.tempLocalBackground.undersampleStyle='REDUCE_INTERP_ORDER'

# What config.detectTemplate.tempLocalBackground.binSize is.
config.detectTemplate.tempLocalBackground.binSize=64

# What config.detectTemplate.tempLocalBackground.binSizeX is.
config.detectTemplate.tempLocalBackground.binSizeX=0

# What config.detectTemplate.tempLocalBackground.binSizeY is.
config.detectTemplate.tempLocalBackground.binSizeY=0

# What config.detectTemplate.tempLocalBackground.algorithm is.
config.detectTemplate.tempLocalBackground.algorithm='AKIMA_SPLINE'

# What config.detectTemplate.tempLocalBackground.ignoredPixelMask is.
config.detectTemplate.tempLocalBackground.ignoredPixelMask=['BAD', 'EDGE', 'DETECTED', 'DETECTED_NEGATIVE', 'NO_DATA']

# What config.detectTemplate.tempLocalBackground.isNanSafe is.
config.detectTemplate.tempLocalBackground.isNanSafe=False

# What config.detectTemplate.tempLocalBackground.useApprox is.
config.detectTemplate.tempLocalBackground.useApprox=False

# What config.detectTemplate.tempLocalBackground.approxOrderX is.
config.detectTemplate.tempLocalBackground.approxOrderX=6

# What config.detectTemplate.tempLocalBackground.approxOrderY is.
config.detectTemplate.tempLocalBackground.approxOrderY=-1

# What config.detectTemplate.tempLocalBackground.weighting is.
config.detectTemplate.tempLocalBackground.weighting=True

# What config.detectTemplate.tempLocalBackground.doApplyFlatBackgroundRatio is.
config.detectTemplate.tempLocalBackground.doApplyFlatBackgroundRatio=False

# What config.detectTemplate.tempLocalBackground.doFilterSuperPixels is.
config.detectTemplate.tempLocalBackground.doFilterSuperPixels=False

# What config.detectTemplate.tempLocalBackground.superPixelFilterSize is.
config.detectTemplate.tempLocalBackground.superPixelFilterSize=3

# What config.detectTemplate.tempWideBackground.statisticsProperty is.
config.detectTemplate.tempWideBackground.statisticsProperty='MEANCLIP'

# What config.detectTemplate.tempWideBackground.undersampleStyle is.
config.detectTemplate.tempWideBackground.undersampleStyle='REDUCE_INTERP_ORDER'

# What config.detectTemplate.tempWideBackground.binSize is.
config.detectTemplate.tempWideBackground.binSize=512

# What config.detectTemplate.tempWideBackground.binSizeX is.
config.detectTemplate.tempWideBackground.binSizeX=0

# What config.detectTemplate.tempWideBackground.binSizeY is.
config.detectTemplate.tempWideBackground.binSizeY=0

# What config.detectTemplate.tempWideBackground.algorithm is.
config.detectTemplate.tempWideBackground.algorithm='AKIMA_SPLINE'

# What config.detectTemplate.tempWideBackground.ignoredPixelMask is.
config.detectTemplate.tempWideBackground.ignoredPixelMask=['BAD', 'EDGE', 'DETECTED', 'DETECTED_NEGATIVE', 'NO_DATA']

# What config.detectTemplate.tempWideBackground.isNanSafe is.
config.detectTemplate.tempWideBackground.isNanSafe=False

# What config.detectTemplate.tempWideBackground.useApprox is.
config.detectTemplate.tempWideBackground.useApprox=False

# What config.detectTemplate.tempWideBackground.approxOrderX is.
config.detectTemplate.tempWideBackground.approxOrderX=6

# What config.detectTemplate.tempWideBackground.approxOrderY is.
config.detectTemplate.tempWideBackground.approxOrderY=-1

# What config.detectTemplate.tempWideBackground.weighting is.
config.detectTemplate.tempWideBackground.weighting=True

# What config.detectTemplate.tempWideBackground.doApplyFlatBackgroundRatio is.
config.detectTemplate.tempWideBackground.doApplyFlatBackgroundRatio=False

# What config.detectTemplate.tempWideBackground.doFilterSuperPixels is.
config.detectTemplate.tempWideBackground.doFilterSuperPixels=False

# What config.detectTemplate.tempWideBackground.superPixelFilterSize is.
config.detectTemplate.tempWideBackground.superPixelFilterSize=3

# What config.maskStreaks.minimumKernelHeight is.
config.maskStreaks.minimumKernelHeight=0.0

# What config.maskStreaks.absMinimumKernelHeight is.
config.maskStreaks.absMinimumKernelHeight=5.0

# What config.maskStreaks.clusterMinimumSize is.
config.maskStreaks.clusterMinimumSize=50

# What config.maskStreaks.clusterMinimumDeviation is.
config.maskStreaks.clusterMinimumDeviation=2

# What config.maskStreaks.delta is.
config.maskStreaks.delta=0.2

# What config.maskStreaks.nSigma is.
config.maskStreaks.nSigma=2.0

# What config.maskStreaks.nSigmaMask is.
config.maskStreaks.nSigmaMask=5.0

# What config.maskStreaks.rhoBinSize is.
config.maskStreaks.rhoBinSize=40.0

# What config.maskStreaks.thetaBinSize is.
config.maskStreaks.thetaBinSize=2.0

# What config.maskStreaks.invSigma is.
config.maskStreaks.invSigma=0.1

# What config.maskStreaks.footprintThreshold is.
config.maskStreaks.footprintThreshold=0.01

# What config.maskStreaks.dChi2Tolerance is.
config.maskStreaks.dChi2Tolerance=0.1

# What config.maskStreaks.maxFitIter is.
config.maskStreaks.maxFitIter=100

# What config.maskStreaks.detectedMaskPlane is.
config.maskStreaks.detectedMaskPlane='DETECTED'

# What config.maskStreaks.onlyMaskDetected is.
config.maskStreaks.onlyMaskDetected=True

# What config.maskStreaks.streaksMaskPlane is.
config.maskStreaks.streaksMaskPlane='STREAK'

# What config.maskStreaks.badMaskPlanes is.
config.maskStreaks.badMaskPlanes=['NO_DATA', 'INTRP', 'BAD', 'SAT', 'EDGE']

# What config.maskStreaks.maxStreakWidth is.
config.maskStreaks.maxStreakWidth=0.0

# What config.streakMaskName is.
config.streakMaskName='STREAK'

# What config.maxNumEpochs is.
config.maxNumEpochs=2

# What config.maxFractionEpochsLow is.
config.maxFractionEpochsLow=0.4

# What config.maxFractionEpochsHigh is.
config.maxFractionEpochsHigh=0.03

# What config.spatialThreshold is.
config.spatialThreshold=0.5

# What config.doScaleWarpVariance is.
config.doScaleWarpVariance=True

# What config.scaleWarpVariance.background.binSize is.
config.scaleWarpVariance.background.binSize=32

# What config.scaleWarpVariance.background.binSizeX is.
config.scaleWarpVariance.background.binSizeX=0

# What config.scaleWarpVariance.background.binSizeY is.
config.scaleWarpVariance.background.binSizeY=0

# What config.scaleWarpVariance.background.useApprox is.
config.scaleWarpVariance.background.useApprox=False

# What config.scaleWarpVariance.background.undersampleStyle is.
config.scaleWarpVariance.background.undersampleStyle='REDUCE_INTERP_ORDER'

# What config.scaleWarpVariance.background.statisticsProperty is.
config.scaleWarpVariance.background.statisticsProperty='MEANCLIP'

# What config.scaleWarpVariance.background.algorithm is.
config.scaleWarpVariance.background.algorithm='AKIMA_SPLINE'

# What config.scaleWarpVariance.background.isNanSafe is.
config.scaleWarpVariance.background.isNanSafe=False

# What config.scaleWarpVariance.background.ignoredPixelMask is.
config.scaleWarpVariance.background.ignoredPixelMask=['DETECTED', 'DETECTED_NEGATIVE', 'BAD', 'SAT', 'NO_DATA', 'INTRP']

# What config.scaleWarpVariance.background.approxOrderX is.
config.scaleWarpVariance.background.approxOrderX=6

# What config.scaleWarpVariance.background.approxOrderY is.
config.scaleWarpVariance.background.approxOrderY=-1

# What config.scaleWarpVariance.background.weighting is.
config.scaleWarpVariance.background.weighting=True

# What config.scaleWarpVariance.background.doApplyFlatBackgroundRatio is.
config.scaleWarpVariance.background.doApplyFlatBackgroundRatio=False

# What config.scaleWarpVariance.background.doFilterSuperPixels is.
config.scaleWarpVariance.background.doFilterSuperPixels=False

# What config.scaleWarpVariance.background.superPixelFilterSize is.
config.scaleWarpVariance.background.superPixelFilterSize=3

# What config.scaleWarpVariance.maskPlanes is.
config.scaleWarpVariance.maskPlanes=['DETECTED', 'DETECTED_NEGATIVE', 'BAD', 'SAT', 'NO_DATA', 'INTRP']

# What config.scaleWarpVariance.limit is.
config.scaleWarpVariance.limit=10.0

# What config.doPreserveContainedBySource is.
config.doPreserveContainedBySource=True

# What config.doPrefilterArtifacts is.
config.doPrefilterArtifacts=True

# What config.prefilterArtifactsMaskPlanes is.
config.prefilterArtifactsMaskPlanes=['NO_DATA', 'BAD', 'SUSPECT']

# What config.prefilterArtifactsRatio is.
config.prefilterArtifactsRatio=0.05

# What config.doFilterMorphological is.
config.doFilterMorphological=False

# What config.growStreakFp is.
config.growStreakFp=5.0

# What config.detectTemplateIterMultiplier is.
config.detectTemplateIterMultiplier=1.25

# What config.maxDetectTemplateIter is.
config.maxDetectTemplateIter=10

config.select.retarget(target=lsst.pipe.tasks.selectImages.PsfWcsSelectImagesTask, ConfigClass=lsst.pipe.tasks.selectImages.PsfWcsSelectImagesConfig)

# What config.select.maxEllipResidual is.
config.select.maxEllipResidual=0.007

# What config.select.maxSizeScatter is.
config.select.maxSizeScatter=None

# What config.select.maxScaledSizeScatter is.
config.select.maxScaledSizeScatter=0.019

# What config.select.minMJD is.
config.select.minMJD=None

# What config.select.excludeDetectors is.
config.select.excludeDetectors=[1, 2]

# What config.inputRecorder.saveEmptyCcds is.
config.inputRecorder.saveEmptyCcds=False

# What config.inputRecorder.saveErrorCcds is.
config.inputRecorder.saveErrorCcds=False

# What config.inputRecorder.saveVisitGoodPix is.
config.inputRecorder.saveVisitGoodPix=False

# What config.scaleZeroPoint.zeroPoint is.
config.scaleZeroPoint.zeroPoint=31.4

# What config.connections.inputWarps is.
config.connections.inputWarps='direct_warp'

# What config.connections.skyMap is.
config.connections.skyMap='skyMap'

# What config.connections.selectedVisits is.
config.connections.selectedVisits='{outputCoaddName}_coadd_visits'

# What config.connections.brightObjectMask is.
config.connections.brightObjectMask='brightObjectMask'

# What config.connections.coaddExposure is.
config.connections.coaddExposure='{outputCoaddName}_coadd_predetection{warpTypeSuffix}'

# What config.connections.nImage is.
config.connections.nImage='{outputCoaddName}_coadd_n_image'

# What config.connections.inputMap is.
config.connections.inputMap='{outputCoaddName}_coadd_input_map'

# What config.connections.inputCoaddName is.
config.connections.inputCoaddName='deep'

# What config.connections.outputCoaddName is.
config.connections.outputCoaddName='deep'

# What config.connections.warpType is.
config.connections.warpType='direct'

# What config.connections.warpTypeSuffix is.
config.connections.warpTypeSuffix=''

# What config.connections.psfMatchedWarps is.
config.connections.psfMatchedWarps='psf_matched_warp'

# What config.connections.templateCoadd is.
config.connections.templateCoadd='{outputCoaddName}_coadd_compare_template{warpTypeSuffix}'

# What config.connections.artifactMasks is.
config.connections.artifactMasks='compare_warp_artifact_mask'

