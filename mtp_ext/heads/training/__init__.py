"""Training of MTP heads, alone or with their model."""

from mtp_ext.heads.training.data import read_blocks
from mtp_ext.heads.training.recipes import RECIPES
from mtp_ext.heads.training.run import Text, train
from mtp_ext.heads.training.settings import Settings

__all__ = ["RECIPES", "Settings", "Text", "read_blocks", "train"]
