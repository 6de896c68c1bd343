"""StreamingT2V: a shot becomes a long video."""

from dataclasses import fields

from comfy_api.latest import io

from ..host.common.kept_files import kept_files
from ..host.common.loading import LARGE_PRECISIONS
from ..host.extend import extend
from ..host.streaming import loader as loader
from .node import PreflightNode, StoryReelNode
from .story import CATEGORY

CATEGORY = f"{CATEGORY}/StreamingT2V"


class StoryReelStreamingLoader(StoryReelNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StoryReelStreamingLoader",
            display_name="Load StreamingT2V (StoryReel)",
            category=CATEGORY,
            description="A checkpoint of StreamingT2V, StreamingSVD, ModelScope text-to-video or MS-Vid2Vid, as "
            "published.",
            search_aliases=["StreamingT2V", "StreamingSVD", "ModelScope", "Vid2Vid", "long video", "extend"],
            has_intermediate_output=True,  # so that what it says is there after a cached run, too
            inputs=[
                io.Combo.Input(
                    "checkpoint",
                    options=loader.checkpoint_names(),
                    tooltip="A file in models/checkpoints or models/diffusion_models: streaming_t2v.ckpt or the same "
                    "weights as safetensors; StreamingSVD's model.safetensors; ModelScope text-to-video in its own or "
                    "in diffusers' layout; MS-Vid2Vid's non_ema_0035000.pth. ModelScope's weights, and what is built "
                    "on them, may not be used commercially (CC-BY-NC); Stable Video Diffusion's are for research.",
                ),
                io.Combo.Input(
                    "model_type",
                    options=["auto", *loader.CHOICES],
                    default="auto",
                    tooltip="What the file is. auto reads it from the keys; ModelScope text-to-video and MS-Vid2Vid "
                    "have the same ones, so there the file's name decides: choose here if yours was renamed. The text "
                    "output says what it was taken for.",
                ),
                io.Combo.Input(
                    "precision",
                    options=list(LARGE_PRECISIONS),
                    default="auto",
                    advanced=True,
                    tooltip="Number format of the video model. auto: what the host would choose.",
                ),
            ],
            outputs=[
                io.Model.Output(tooltip="The video model, for every sampler; frames are the batch of its latent."),
                io.Clip.Output(
                    tooltip="Its text encoder, if the file carries one. Else use Load CLIP with the text encoder of "
                    "SD2.x. StreamingSVD reads no text."
                ),
                io.Vae.Output(
                    tooltip="Its autoencoder, if the file carries one. Else use Load VAE with "
                    "vae-ft-mse-840000-ema-pruned.safetensors."
                ),
                io.ClipVision.Output(
                    tooltip="Its image encoder, if the file carries one. Else use Load CLIP Vision with "
                    "CLIP-ViT-H-14-laion2B-s32B-b79K.safetensors. ModelScope and MS-Vid2Vid see no picture."
                ),
                io.String.Output(
                    display_name="model_info",
                    tooltip="What the file was taken for and by what, what it is good at, its licence, what it lacks.",
                ),
            ],
        )

    @classmethod
    def execute(cls, checkpoint, model_type, precision) -> io.NodeOutput:
        found = loader.load(checkpoint, model_type, LARGE_PRECISIONS[precision])
        message = loader.describe_checkpoint(found)
        return io.NodeOutput(found.model, found.clip, found.vae, found.clip_vision, message, ui={"text": [message]})


class StoryReelExtendVideo(PreflightNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StoryReelExtendVideo",
            display_name="Extend Video (StoryReel)",
            category=CATEGORY,
            description="A clip goes on, chunk by chunk, as long as you like: each chunk begins with the last frames "
            "of the one before. What is done is on disk, and a run that was stopped goes on from there.",
            search_aliases=["long video", "StreamingT2V", "StreamingSVD", "continue", "last frame", "autoregressive"],
            hidden=[io.Hidden.dynprompt, io.Hidden.unique_id],
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="StreamingT2V, StreamingSVD, DynamiCrafter, Stable Video Diffusion or Wan image-to-video: "
                    "the kind of model decides how a chunk is made.",
                ),
                io.Vae.Input("vae", tooltip="The model's autoencoder."),
                io.Sampler.Input("sampler", tooltip="As for one clip of this model; StreamingT2V: DDIM, eta 1."),
                io.Sigmas.Input(
                    "sigmas", tooltip="As for one clip of this model; StreamingT2V: DDIM Sigmas, leading, 50 steps."
                ),
                io.MultiType.Input(
                    "frames",
                    types=[io.Image, io.Video],
                    lazy=True,
                    tooltip="The clip that goes on, as IMAGE or VIDEO, in the size of the video to be. A VIDEO is read "
                    "frame by frame, and its sound stays on its part.",
                ),
                io.Conditioning.Input(
                    "positive",
                    optional=True,
                    tooltip="One prompt a chunk, as Encode Story gives them; the last one holds on. Stable Video "
                    "Diffusion reads no text; frame rate, motion and augmentation of its own conditioning count.",
                ),
                io.Conditioning.Input("negative", optional=True, tooltip="The same, or a single one for all."),
                io.ClipVision.Input(
                    "clip_vision",
                    optional=True,
                    tooltip="The model's image encoder. Not needed by StreamingT2V at apm_strength 0, nor by Wan 2.2.",
                ),
                io.Image.Input(
                    "reference_image",
                    optional=True,
                    tooltip="What all chunks are to look like, in the place of a frame of the clip. For a "
                    "DynamiCrafter checkpoint that interpolates: where each chunk ends, one picture a chunk; the last "
                    "holds on.",
                ),
                io.Int.Input(
                    "anchor",
                    default=0,
                    min=-(2**31),
                    max=2**31,
                    tooltip="The frame of the clip that all chunks are to look like, from 0; -1 is its last. "
                    "StreamingT2V shows it to APM (published: 0), StreamingSVD makes it its picture (published: 6); a "
                    "DynamiCrafter checkpoint that interpolates goes back to it in every chunk.",
                ),
                io.Int.Input(
                    "chunks",
                    default=4,
                    min=1,
                    max=100_000,
                    tooltip="How many are added. The video has frames + chunks x (chunk_length - overlap) frames.",
                ),
                io.Int.Input(
                    "chunk_length",
                    default=0,
                    min=0,
                    max=4096,
                    tooltip="Of a chunk, with those that it shares. 0: as trained: StreamingT2V and DynamiCrafter 16, "
                    "StreamingSVD 25, Stable Video Diffusion 14 (XT wants 25), Wan 81.",
                ),
                io.Int.Input(
                    "overlap",
                    default=0,
                    min=0,
                    max=4095,
                    tooltip="How many frames a chunk looks back. 0: as published: StreamingT2V 8, StreamingSVD 7, the "
                    "others 1. Wan takes 5, 9 and so on, too.",
                ),
                io.Float.Input(
                    "cfg",
                    default=7.5,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    tooltip="Guidance (CFG): 7.5 as published for StreamingT2V and DynamiCrafter; StreamingSVD 3, with "
                    "VideoLinearCFGGuidance from 1.5 before it; Stable Video Diffusion 2.5; Wan about 5.",
                ),
                io.Float.Input(
                    "cam_strength",
                    default=1.0,
                    min=0.0,
                    max=4.0,
                    step=0.01,
                    tooltip="Of the short-term memory of StreamingT2V and StreamingSVD: 1 as published, 0 without.",
                ),
                io.Float.Input(
                    "apm_strength",
                    default=1.0,
                    min=0.0,
                    max=4.0,
                    step=0.01,
                    tooltip="Of the long-term memory of StreamingT2V: 1 as published, 0 without.",
                ),
                io.Float.Input(
                    "color_match",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Pulls the colours of each chunk (mean and spread of red, green and blue) to the anchor's, "
                    "against drift in long videos. 0 as published.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=2**64 - 1,
                    control_after_generate=io.ControlAfterGenerate.fixed,
                    tooltip="Of the noise: the first chunk draws by the next number, and so on. A video goes on where "
                    "it was stopped only under the same seed.",
                ),
                io.Float.Input(
                    "fps",
                    default=8.0,
                    min=0.1,
                    max=240.0,
                    step=0.1,
                    tooltip="Frames a second, where frames is an IMAGE; a VIDEO keeps its own.",
                ),
                io.Boolean.Input(
                    "output_images",
                    default=False,
                    tooltip="Read the whole video into memory for the IMAGE output. A long one takes much: 12 bytes a "
                    "pixel.",
                ),
            ],
            outputs=[
                io.Video.Output(tooltip="The clip and all its chunks, in a file that is read as it is needed."),
                io.Image.Output(tooltip="Its frames, where images is on."),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, **_) -> int:
        return kept_files.generation()

    @classmethod
    def preflight(cls, **inputs) -> None:
        names = {field.name for field in fields(extend.ChunkInputs)}
        chunk = {name: value for name, value in inputs.items() if name in names}
        extend.extender_of(extend.ChunkInputs(**chunk))

    @classmethod
    def execute(
        cls, frames, fps, chunks, anchor, color_match, output_images, reference_image=None, **inputs
    ) -> io.NodeOutput:
        video, pictures = extend.extend(
            cls.hidden.dynprompt,
            cls.hidden.unique_id,
            extend.ChunkInputs(**inputs),
            frames=frames,
            fps=fps,
            chunks=chunks,
            anchor=anchor,
            reference_image=reference_image,
            color_match=color_match,
            output_images=output_images,
        )
        kept_files.add(video.get_stream_source())
        return io.NodeOutput(video, pictures)


NODES = [StoryReelStreamingLoader, StoryReelExtendVideo]
