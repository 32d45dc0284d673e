"""The classification-consistency loss: a frozen teacher judges the denoiser's clean estimates."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F

from rsdistill.diffusion.denoising_options import ConsistencyOptions
from rsdistill.diffusion.teacher import LatentTeacher


class Judgement(NamedTuple):
    """What the teacher says of some clean estimates.

    Attributes:
        loss: Mean of ``w(t)·L_cls`` over all samples, ().
        right: How many of those it looked at it takes for their class, ().
        seen: How many it looked at.
    """

    loss: torch.Tensor
    right: torch.Tensor
    seen: int


def judge(
    teacher: LatentTeacher,
    estimate: torch.Tensor,
    clean: torch.Tensor,
    label: torch.Tensor,
    alpha_bar: torch.Tensor,
    options: ConsistencyOptions,
) -> Judgement:
    """The consistency loss, and how often the teacher is right.

    Args:
        teacher: Frozen classifier f.
        estimate: Clean estimates ẑ₀, (n, C, h, w).
        clean: Clean latents z₀, (n, C, h, w).
        label: Class positions, int64 (n,).
        alpha_bar: ᾱ_t, (n,).
        options: Target and gate.
    """
    teacher = teacher.to(estimate.device)
    # Where the gate is shut the teacher need not look.
    seen = torch.nonzero(alpha_bar >= options.min_alpha_bar).flatten()
    if not len(seen):
        return Judgement(0.0 * estimate.sum(), torch.zeros((), device=estimate.device), 0)
    logits = teacher(estimate[seen])
    if options.target == "label":
        loss = F.cross_entropy(logits, label[seen], reduction="none")
    else:
        with torch.no_grad():
            wanted = teacher(clean[seen]).log_softmax(1)
        loss = F.kl_div(logits.log_softmax(1), wanted, log_target=True, reduction="none").sum(1)
    right = (logits.argmax(1) == label[seen]).sum()
    return Judgement((alpha_bar[seen] * loss).sum() / len(alpha_bar), right, len(seen))
