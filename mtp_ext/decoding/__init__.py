"""Decoding with the kernels: models prepared for it, and loops that accept what the model itself would have said."""

from mtp_ext.decoding.prepare import PreparedModel, prepare
from mtp_ext.decoding.target import Target, TargetPass, TransformersTarget

__all__ = ["PreparedModel", "Target", "TargetPass", "TransformersTarget", "prepare"]
