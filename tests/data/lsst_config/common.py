# Written for these tests, as observatories' packages have theirs: what several tasks share.
from lsst.pipe.tasks.selectImages import PsfWcsSelectImagesTask

config.select.retarget(PsfWcsSelectImagesTask)
config.select.maxEllipResidual = 0.01
config.select.maxSizeScatter = None

config.doSelectVisits = True
config.doMaskBrightObjects = True
config.brightObjectMaskName = "BRIGHT"
