"""Files that appear whole or not at all."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path


def replace_file(path: Path, write: Callable[[Path], object]) -> None:
    """Has `write` fill a file beside `path`, which then takes its place."""
    handle, scratch = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    os.close(handle)
    try:
        write(Path(scratch))
        os.chmod(scratch, 0o644)  # mkstemp's files are private
        os.replace(scratch, path)
    finally:
        Path(scratch).unlink(missing_ok=True)


def replace_text(path: Path, text: str) -> None:
    replace_file(path, lambda scratch: scratch.write_text(text + "\n", encoding="utf-8"))
