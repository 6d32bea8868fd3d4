"""Whether a run fits the memory, before it begins."""

import os

from mtp_ext.heads.config import HeadsConfig

_SHARE = 0.9  # of the free memory that a run may count on
# Numbers of float32 that a step keeps of one token for each head, in units of the hidden size: what the backward pass
# of a decoder layer reads, or of an mlp block.
_KEPT = {"transformer": 40, "mlp": 10, "sequential": 14, "prefix": 24}
# The same of each layer of a backbone that learns.
_KEPT_OF_LAYER = 40


def free_bytes() -> int | None:
    """Memory that a process can still get, where the system says."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            lines = dict(line.split(":", 1) for line in file)
        return int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        pages = os.sysconf_names.get("SC_AVPHYS_PAGES")
        return None if pages is None else os.sysconf(pages) * os.sysconf("SC_PAGE_SIZE")


def check_states(needed: int, tokens: int, free: int | None) -> None:
    """Raises a MemoryError, which says what would fit, unless hidden states of `needed` bytes do."""
    if free is not None and needed > _SHARE * free:
        fits = int(tokens * _SHARE * free / needed)
        raise MemoryError(
            f"train: the hidden states of {tokens:,} tokens take {_size(needed)}, and {_size(free)} are free: "
            f"{fits:,} tokens would fit, or use --cache disk"
        )


def check_batch(config: HeadsConfig, *, batch: int, block: int, joint: bool, free: int | None) -> None:
    """Raises a MemoryError, which says what would fit, unless the activations of a step do."""
    layers = config.base.layers * _KEPT_OF_LAYER if joint else 0
    of_block = block * config.base.hidden_size * 4 * (len(config.horizons) * _KEPT[config.kind] + layers)
    if free is not None and batch * of_block > _SHARE * free:
        fits = int(_SHARE * free / of_block)
        advice = f"--batch {fits}" if fits else f"--block {max(16, int(block * _SHARE * free / of_block))} --batch 1"
        raise MemoryError(
            f"train: a batch of {batch} blocks of {block} tokens takes about {_size(batch * of_block)}, "
            f"and {_size(free)} are free: {advice} would fit"
        )


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"
