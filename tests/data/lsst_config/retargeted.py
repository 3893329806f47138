# Written for these tests: subtasks by their classes, from where LSST has them, and by other spellings of imports.
import lsst.meas.algorithms as measAlg
from lsst.drp.tasks.assemble_coadd import AssembleCoaddConfig, AssembleCoaddTask, CompareWarpAssembleCoaddConfig
from lsst.meas.algorithms import MaskStreaksTask
from lsst.meas.algorithms.detection import SourceDetectionTask
from lsst.pex.config import Config
from lsst.pipe.tasks import selectImages
from lsst.pipe.tasks.coaddInputRecorder import CoaddInputRecorderTask as Recorder
from lsst.pipe.tasks.scaleZeroPoint import SpatialScaleZeroPointConfig, SpatialScaleZeroPointTask
from lsst.pipe.tasks.selectFluxMag0 import SelectLsstSimFluxMag0Task

assert isinstance(config, (CompareWarpAssembleCoaddConfig, Config))
assert type(config.assembleStaticSkyModel.value) is AssembleCoaddConfig

config.assembleStaticSkyModel.retarget(AssembleCoaddTask)
config.assembleStaticSkyModel.select.retarget(selectImages.BestSeeingSelectVisitsTask)
config.assembleStaticSkyModel.statistic = "MEDIAN"
config.inputRecorder.retarget(Recorder)
config.inputRecorder.saveEmptyCcds = True
config.detect.retarget(SourceDetectionTask)
config.detectTemplate.retarget(measAlg.SourceDetectionTask)
config.maskStreaks.retarget(MaskStreaksTask)
config.maskStreaks.onlyMaskDetected = False
config.doFilterMorphological = True
config.scaleZeroPoint.retarget(target=SpatialScaleZeroPointTask, ConfigClass=SpatialScaleZeroPointConfig)
config.scaleZeroPoint.selectFluxMag0.retarget(SelectLsstSimFluxMag0Task)
config.scaleZeroPoint.interpStyle = "NATURAL_SPLINE"
