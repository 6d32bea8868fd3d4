"""The marginalization study: how well a model's second token is predicted by summing out the next one.

After section 4 of arXiv 2502.09419: share of real tokens among the most probable ones, against the number of
branches; here with the likelihood of the real token, and with confidence intervals.
"""

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from torch import Tensor
from tqdm import tqdm

from mtp_ext.integrations.prefix import check_model
from mtp_ext.study.measurement import measure_text
from mtp_ext.study.results import Results
from mtp_ext.study.settings import Setting
from mtp_ext.study.texts import Text, sample_positions
from mtp_ext.study.timing import time_marginalize

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Of each text: plain PyTorch takes a good part of a second for a thousand branches.
_TIMED_POSITIONS = 3
_TIMED_BRANCHES = 256  # at most: the logits of these exist for it


def study_marginalization(
    model: "PreTrainedModel",
    texts: Sequence[Text],
    settings: Sequence[Setting],
    positions: int,
    *,
    save: Callable[[Results], object],
) -> Results:
    """Measures every setting at `positions` places of each text, with a progress bar on stderr.

    Ctrl-C ends the study; what was measured until then is returned, with `complete` false.

    Args:
        model: a transformers causal language model in evaluation mode.
        texts: what to predict.
        settings: ways to choose the branches.
        positions: how many places of each text.
        save: called with the results so far after each text.

    Raises:
        ValueError: a text too short for so many positions, or longer than the model can read.
    """
    samples = [sample_positions(text, positions) for text in texts]
    for text in texts:
        check_model(f"study, {text.path}", model, text.tokens.shape[0])
    results = Results(settings=tuple(settings))
    try:
        with tqdm(total=positions * len(texts), unit="position", smoothing=0.0) as progress:
            for text, sample in zip(texts, samples, strict=True):
                progress.set_description(text.kind)
                _study_text(model, text, sample, results, progress)
                save(results)
        results.complete = True
    except KeyboardInterrupt:
        pass
    return results


def _study_text(model: "PreTrainedModel", text: Text, sample: Tensor, results: Results, progress: "tqdm[None]") -> None:
    timed = range(0, len(sample), -(-len(sample) // _TIMED_POSITIONS))
    start = time.perf_counter()
    for index, (measurements, branch_pass) in enumerate(measure_text(model, text, sample, results.settings)):
        results.measurements.extend(measurements)
        results.branch_seconds += branch_pass.seconds
        results.seconds += time.perf_counter() - start
        if index in timed:
            log_probs = branch_pass.log_probs[:_TIMED_BRANCHES]
            logits = branch_pass.siblings.logits(log_probs.shape[0])
            results.timings.append(time_marginalize(logits[None], log_probs[None]))
        progress.update()
        start = time.perf_counter()
