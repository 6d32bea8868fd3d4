"""Started once a process by test_train.py: trains and has the first process write what it has learned."""

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from tests.test_train import FROZEN, JOINT
from tests.training_cases import learned, random_blocks, tiny_training

torch.set_num_threads(1)
for name, settings in (("frozen", FROZEN), ("joint", JOINT)):
    training = tiny_training(settings, random_blocks(9))
    list(training.run())
    if training._processes.first:
        save_file(learned(training), Path(sys.argv[1]) / f"{name}.safetensors")
    training._processes.wait()
