"""Another pack that patches attention, by the host's old seam and by its new one.

Both leave the result as it was: the replace does what the host would do at its place, the override calls what it
overrides.
"""

from comfy_api.latest import ComfyExtension, io


class ForeignReplace(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="ForeignReplace",
            category="foreign",
            inputs=[
                io.Model.Input("model"),
                io.String.Input("block", default="input"),
                io.Int.Input("number", default=1),
            ],
            outputs=[io.Model.Output()],
        )

    @classmethod
    def execute(cls, model, block, number):
        from comfy.ldm.modules.attention import optimized_attention

        patched = model.clone()

        def replace(q, k, v, extra_options):
            return optimized_attention(q, k, v, extra_options["n_heads"], transformer_options=extra_options)

        patched.set_model_attn1_replace(replace, block, number)
        return io.NodeOutput(patched)


class ForeignOverride(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="ForeignOverride",
            category="foreign",
            inputs=[io.Model.Input("model")],
            outputs=[io.Model.Output()],
        )

    @classmethod
    def execute(cls, model):
        patched = model.clone()

        def override(attention, *args, **kwargs):
            return attention(*args, **kwargs)

        patched.model_options["transformer_options"]["optimized_attention_override"] = override
        return io.NodeOutput(patched)


class Foreign(ComfyExtension):
    async def get_node_list(self):
        return [ForeignReplace, ForeignOverride]


async def comfy_entrypoint():
    return Foreign()
