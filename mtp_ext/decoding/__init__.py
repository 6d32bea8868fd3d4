"""Decoding with the kernels: models prepared for it, and loops that accept what the model itself would have said."""

from mtp_ext.decoding.draft_model import DraftModel, first_layers
from mtp_ext.decoding.drafters import Drafter, DraftSession, ReadingSession, grow_tree
from mtp_ext.decoding.generation import Generation, GenerationError, GenerationInterrupted, generate
from mtp_ext.decoding.heads_drafter import HeadsDrafter
from mtp_ext.decoding.prepare import PreparedModel, prepare
from mtp_ext.decoding.prompt_lookup import PromptLookup
from mtp_ext.decoding.statistics import Statistics
from mtp_ext.decoding.target import ReadableTarget, Target, TargetPass, TransformersTarget

__all__ = [
    "DraftModel",
    "DraftSession",
    "Drafter",
    "Generation",
    "GenerationError",
    "GenerationInterrupted",
    "HeadsDrafter",
    "PreparedModel",
    "PromptLookup",
    "ReadableTarget",
    "ReadingSession",
    "Statistics",
    "Target",
    "TargetPass",
    "TransformersTarget",
    "first_layers",
    "generate",
    "grow_tree",
    "prepare",
]
