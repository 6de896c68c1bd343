"""The host's own context windows, for clips."""

import inspect

import pytest


def windows(model, length: int, overlap: int, causal: bool):
    """A clone of the model that samples `length` frames at a time. causal: the host's causal_window_fix; skips the test
    on a host that has none."""
    import comfy.context_windows as context

    known = "causal_window_fix" in inspect.signature(context.IndexListContextHandler.__init__).parameters
    if causal and not known:
        pytest.skip("this ComfyUI has no causal_window_fix")
    patched = model.clone()
    patched.model_options["context_handler"] = context.IndexListContextHandler(
        context_schedule=context.get_matching_context_schedule("standard_static"),
        fuse_method=context.get_matching_fuse_method("flat"),
        context_length=length,
        context_overlap=overlap,
        dim=0,
        **({"causal_window_fix": causal} if known else {}),
    )
    context.create_prepare_sampling_wrapper(patched)
    return patched


def listed_windows(model, length: int):
    """A clone whose network gets `length` frames at a time, as AnimateDiff-Evolved's windows call it: that pack says
    in `ad_params` which frames of the batch they are."""
    from comfy.patcher_extension import WrappersMP

    def in_windows(executor, x, t, c_concat=None, c_crossattn=None, control=None, transformer_options=None, **kwargs):
        chunks = len(transformer_options["cond_or_uncond"])
        frames = len(x) // chunks
        denoised = x.new_zeros(x.shape)
        for first in range(0, frames, length):
            window = list(range(first, min(first + length, frames)))
            rows = [chunk * frames + frame for chunk in range(chunks) for frame in window]
            part = {
                name: value[rows] if hasattr(value, "shape") and len(value) == len(x) else value
                for name, value in kwargs.items()
            }
            told = {"full_length": frames, "context_length": length, "sub_idxs": window}
            options = {**transformer_options, "ad_params": told}
            denoised[rows] = executor(x[rows], t[rows], c_concat, c_crossattn[rows], control, options, **part)
        return denoised

    patched = model.clone()
    patched.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "listed_windows", in_windows)
    return patched
