"""MTP heads on a Hugging Face model: what predicts further tokens from its hidden states."""

from pathlib import Path

from mtp_ext.heads.backbone import LayerOutputs
from mtp_ext.heads.config import BaseModel, HeadsConfig
from mtp_ext.heads.heads import MTPHeads
from mtp_ext.heads.prefix_head import Prefix

SMOLLM2_HEADS = Path(__file__).parent / "smollm2"
"""A folder for `MTPHeads.from_pretrained`: heads of SmolLM2-135M-Instruct, as `load_model()` gives it."""

__all__ = ["SMOLLM2_HEADS", "BaseModel", "HeadsConfig", "LayerOutputs", "MTPHeads", "Prefix"]
