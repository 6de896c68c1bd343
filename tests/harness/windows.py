"""The host's own context windows, for clips."""


def windows(model, length: int, overlap: int, causal: bool):
    """A clone of the model that samples `length` frames at a time. causal: the host's causal_window_fix."""
    import comfy.context_windows as context

    patched = model.clone()
    patched.model_options["context_handler"] = context.IndexListContextHandler(
        context_schedule=context.get_matching_context_schedule("standard_static"),
        fuse_method=context.get_matching_fuse_method("flat"),
        context_length=length,
        context_overlap=overlap,
        dim=0,
        causal_window_fix=causal,
    )
    context.create_prepare_sampling_wrapper(patched)
    return patched
