"""What CUDA kernels say about values that only the device knows."""

from mtp_ext.ops.take_faults import take_faults


def check() -> None:
    """Waits for the devices that kernels were launched on, and raises if one met a bad value since the last check.

    On CUDA an index out of range, or an `indptr` that does not ascend, is known to the device alone, and no op waits
    for it. A kernel skips such a value, never reads or writes out of bounds for it, and leaves word for this function.
    On a CPU ops raise at once, and there is nothing to wait for.

    Raises:
        ValueError: op, argument and expectation, and the place of one bad value; the word is then cleared.
        RuntimeError: a device failed.
    """
    if faults := take_faults():
        raise ValueError(faults)
