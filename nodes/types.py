"""Link types that the host does not have."""

from comfy_api.latest import io

# An immutable core.story.story.Story.
StoryType = io.Custom("STORY")

# A core.video.trajectory.Trajectory: image tokens of every frame of a shot.
MotionType = io.Custom("STORYREEL_MOTION")

# A host.motion.Predictor.
PredictorType = io.Custom("STORYREEL_PREDICTOR")

# A core.attention.bank.Bank: tokens of characters, from Record Characters or a file.
BankType = io.Custom("STORYREEL_BANK")

# A host.story.references.References: images of characters.
ReferencesType = io.Custom("STORYREEL_REFERENCES")

# A nodes.frame_batch.FrameRun, and a nodes.frame_batch.Tries: inside Draw Story.
FrameRunType = io.Custom("STORYREEL_FRAME_RUN")
TriesType = io.Custom("STORYREEL_TRIES")
