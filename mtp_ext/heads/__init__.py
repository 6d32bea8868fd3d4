"""MTP heads on a Hugging Face model: what predicts further tokens from its hidden states."""

from mtp_ext.heads.backbone import LayerOutputs
from mtp_ext.heads.config import BaseModel, HeadsConfig
from mtp_ext.heads.heads import MTPHeads

__all__ = ["BaseModel", "HeadsConfig", "LayerOutputs", "MTPHeads"]
