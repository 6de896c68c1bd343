"""Banks of characters in files: saved, loaded and merged."""

from comfy_api.latest import io

from ..core.attention.bank_sets import describe, megabytes, merge_alike
from ..host.attention import bank_files
from ..host.common.folders import file_choices
from ..host.common.kept_files import kept_files
from ..host.common.loading import SAFETENSORS
from .bank_reader import BankReaderNode
from .node import StoryReelNode
from .story import CATEGORY
from .types import BankType

MOST_BANKS = 50


class StoryReelSaveBank(BankReaderNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StoryReelSaveBank",
            display_name="Save Bank (StoryReel)",
            category=CATEGORY,
            description="Saves a bank of characters to a file, so that later stories show the same characters.",
            search_aliases=["keep character", "character file", "StoryDiffusion", "storyreel_banks"],
            is_output_node=True,
            enable_expand=True,
            hidden=BankReaderNode.HIDDEN,
            inputs=[
                BankType.Input("bank", tooltip="The bank to save, for instance from Record Characters."),
                io.String.Input(
                    "name",
                    default="my_characters",
                    tooltip="Name of the file in models/storyreel_banks, with or without a folder before it. An "
                    "existing file is never overwritten: the new one gets a number.",
                ),
            ],
            outputs=[BankType.Output(display_name="bank", tooltip="The same bank, once its file is written.")],
        )

    @classmethod
    def fingerprint_inputs(cls, **_) -> int:
        return kept_files.generation()

    @classmethod
    def validate_inputs(cls, name=None) -> bool | str:
        try:  # before anything is sampled
            return name is None or bool(bank_files.new_path(name))
        except ValueError as error:
            return str(error)

    @classmethod
    def execute(cls, bank, name) -> io.NodeOutput:
        path = bank_files.new_path(name)
        bank_files.save(bank_files.check_bank("bank", bank), path)
        kept_files.add(path)
        return io.NodeOutput(bank, ui={"text": [f"{path}: {megabytes(path.stat().st_size)}"]})


class StoryReelLoadBank(StoryReelNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StoryReelLoadBank",
            display_name="Load Bank (StoryReel)",
            category=CATEGORY,
            description="Loads a bank of characters from a file, for further stories with the same model.",
            search_aliases=["character file", "StoryDiffusion", "storyreel_banks"],
            has_intermediate_output=True,  # shows its text after a cached run, too
            inputs=[
                io.Combo.Input(
                    "file",
                    options=file_choices(bank_files.FOLDER, SAFETENSORS),
                    tooltip="A file in models/storyreel_banks, from Save Bank. Press R in the graph to see new files.",
                )
            ],
            outputs=[
                BankType.Output(
                    display_name="bank",
                    tooltip="The bank, for Consistent Self-Attention. It works with the model that recorded it.",
                )
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, file) -> str:
        return bank_files.stamp_of(file)

    @classmethod
    def execute(cls, file) -> io.NodeOutput:
        bank = bank_files.load(file)
        return io.NodeOutput(bank, ui={"text": [describe(bank)]})


class StoryReelMergeBanks(BankReaderNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        banks = io.Autogrow.TemplateNames(
            BankType.Input("bank", tooltip="A bank. All must be recorded with one model."),
            names=[f"bank_{number}" for number in range(1, MOST_BANKS + 1)],
            min=2,
        )
        return io.Schema(
            node_id="StoryReelMergeBanks",
            display_name="Merge Banks (StoryReel)",
            category=CATEGORY,
            description="Makes one bank of several, so that their characters appear in one story.",
            search_aliases=["combine characters", "join banks", "StoryDiffusion"],
            enable_expand=True,
            hidden=BankReaderNode.HIDDEN,
            has_intermediate_output=True,  # shows its text after a cached run, too
            inputs=[
                io.Autogrow.Input(
                    "banks",
                    template=banks,
                    tooltip="Two banks or more. A character that is in several of them keeps the images of all. "
                    "A bank that is connected twice counts once.",
                )
            ],
            outputs=[BankType.Output(display_name="bank", tooltip="The bank with the characters of all.")],
        )

    @classmethod
    def execute(cls, banks: io.Autogrow.Type) -> io.NodeOutput:
        given = {name: bank_files.check_bank(name, bank) for name, bank in banks.items() if bank is not None}
        bank = merge_alike(given)
        return io.NodeOutput(bank, ui={"text": [describe(bank)]})


NODES = [StoryReelSaveBank, StoryReelLoadBank, StoryReelMergeBanks]
