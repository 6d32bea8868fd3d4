"""Distances of layers summed up: one row for each kind of text and layer, with confidence intervals."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from mtp_ext.study.intervals import ALL_KINDS, Interval, bootstrap, wilson
from mtp_ext.study.specialization.logit_lens import LensDistances


@dataclass(frozen=True)
class LayerSummary:
    """One layer on one kind of text: means over its positions, as `LensDistances` names them, in nats.

    Attributes:
        layer: from 1.
        depth: layer / number of layers.
        agreement: the share of positions where the layer's most probable token is the model's.
    """

    kind: str
    layer: int
    depth: float
    positions: int
    kl: Interval
    reverse_kl: Interval
    agreement: Interval


def summarize(distances: Mapping[str, LensDistances]) -> list[LayerSummary]:
    """Kind by kind, layer by layer, and all texts together at the end where there are several."""
    groups = dict(distances)
    if len(groups) > 1:
        together = zip(*distances.values(), strict=True)
        groups[ALL_KINDS] = LensDistances(*(torch.cat(fields, -1) for fields in together))
    return [
        LayerSummary(
            kind=kind,
            layer=layer,
            depth=layer / measured.kl.shape[0],
            positions=measured.kl.shape[1],
            kl=bootstrap(kl),
            reverse_kl=bootstrap(reverse_kl),
            agreement=wilson([bool(agrees) for agrees in agreements]),
        )
        for kind, measured in groups.items()
        for layer, (kl, reverse_kl, agreements) in enumerate(
            zip(*(field.tolist() for field in measured), strict=True), 1
        )
    ]
