"""The command `mtp-ext`."""

import argparse
import sys
from collections.abc import Sequence

from mtp_ext.cli import generate, info, study, train

_EXAMPLES = """examples:
  mtp-ext info                                      what was built, loaded, and for which CPU
  mtp-ext generate "The capital of France is"       text, several tokens a pass of the model
  mtp-ext generate --help                           prompts, drafts, sampling
  mtp-ext study marginalization                     the paper's prediction on SmolLM2-135M and four texts
  mtp-ext study marginalization --texts my.txt      the same on your own text
  mtp-ext study all                                 all experiments, and a page about them
  mtp-ext train --text notes/                       heads that predict further tokens, for faster text

Results go to stdout, messages and progress to stderr. Exit status: 0 done, 2 refused, 130 stopped (Ctrl-C).
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit status.

    What the user can mend (a ValueError, a missing file or package) is one sentence on stderr and status 2;
    anything else is a bug and keeps its traceback.
    """
    parser = argparse.ArgumentParser(
        prog="mtp-ext",
        description="Multi-token prediction in PyTorch: kernels, decoding with them, and the studies that use them.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in (info, generate, study, train):
        command.add_parser(commands)
    options = parser.parse_args(arguments)
    try:
        status: int = options.run(options)
    except (ValueError, OSError, ImportError) as error:
        print(f"mtp-ext: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("mtp-ext: stopped", file=sys.stderr)
        return 130
    return status
