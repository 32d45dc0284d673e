"""How the denoiser is trained, and what is looked at meanwhile."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Annotated, Literal

from pydantic import Field


@dataclass(frozen=True)
class ConsistencyOptions:
    """The classification-consistency loss ``λ·w(t)·L_cls(f(ẑ₀), y)`` with a frozen teacher f.

    Attributes:
        weight: λ; 0 turns the loss off.
        target: ``label`` for cross-entropy to y, ``teacher`` for KL from f(z₀) to f(ẑ₀).
        min_alpha_bar: w(t) is ᾱ_t where that is at least this, else 0: at high noise ẑ₀ says nothing.
    """

    weight: Annotated[float, Field(ge=0)] = 0.0
    target: Literal["label", "teacher"] = "label"
    min_alpha_bar: Annotated[float, Field(ge=0, le=1)] = 0.5


@dataclass(frozen=True)
class WatchOptions:
    """What is looked at while the denoiser trains, where there is a folder for its log.

    Looking takes time but changes nothing: the weights are those of a training that nobody watched.

    Attributes:
        validation: Steps between two validation losses, at noise and timesteps that never change; the last
            step has one too. 0 for none.
        draws: Noisy latents that a validation loss is the mean of; where fewer latents are held out, each is
            taken several times, with other noise.
        samples: Steps between two pictures of tiles drawn from text alone with the averaged weights, always
            from the same noise. 0 for none.
        columns: Tiles of each class in a picture.
    """

    validation: Annotated[int, Field(ge=0)] = 250
    draws: Annotated[int, Field(ge=1)] = 256
    samples: Annotated[int, Field(ge=0)] = 0
    columns: Annotated[int, Field(ge=1)] = 6


@dataclass(frozen=True)
class DenoisingOptions:
    """How the denoiser is trained.

    Attributes:
        steps: Optimiser steps.
        max_laps: Times that each latent, every dihedral view counted, is seen at most; fewer steps are
            taken where ``steps`` would go beyond, since a small set is soon learned by heart and its
            tiles are then copies. None takes all steps.
        batch: Latents a step.
        accumulate: Parts in which a step's batch passes the model, one after another, where memory is short.
            The step is the same.
        lr: Peak learning rate.
        schedule: What the learning rate does after its rise: ``cosine`` falls to nothing, ``constant`` stays.
        warm_up: Share of the steps over which the learning rate rises.
        snr_gamma: Gamma of min-SNR weighting; None weights all timesteps alike. On small latents the class is
            decided at high noise, where the weighting all but silences v prediction: see docs/results.md.
        text_dropout: Share of samples whose prompt is emptied, for classifier-free guidance.
        template_share: Where chips have captions, share of samples that are shown the class prompt instead,
            so that both kinds of prompt work.
        ema: Largest decay of the moving average whose weights are kept; 0 keeps the last weights.
        clip: Largest gradient norm.
        gradient_checkpointing: Compute the activations of UNet and text encoder anew in the backward pass
            instead of keeping them: less memory, about 40 % more time, the same weights.
        consistency: The classification-consistency loss.
        watch: Validation loss and pictures while training.
    """

    steps: Annotated[int, Field(ge=1)] = 2000
    max_laps: Annotated[float, Field(gt=0)] | None = 25.0
    batch: Annotated[int, Field(ge=1)] = 64
    accumulate: Annotated[int, Field(ge=1)] = 1
    lr: Annotated[float, Field(gt=0)] = 1e-3
    schedule: Literal["cosine", "constant"] = "cosine"
    warm_up: Annotated[float, Field(ge=0, lt=1)] = 0.05
    snr_gamma: Annotated[float, Field(gt=0)] | None = None
    text_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    template_share: Annotated[float, Field(ge=0, le=1)] = 0.1
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.998
    clip: Annotated[float, Field(gt=0)] = 1.0
    gradient_checkpointing: bool = False
    consistency: ConsistencyOptions = ConsistencyOptions()
    watch: WatchOptions = WatchOptions()

    def limited(self, latents: int) -> DenoisingOptions:
        """The same options with no more steps than ``max_laps`` allows for so many latents."""
        if self.max_laps is None:
            return self
        most = math.ceil(self.max_laps * latents / min(self.batch, latents))
        return replace(self, steps=min(self.steps, most))
