"""Training of the denoiser on cached latents, with the classification-consistency loss."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import lightning
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import nn
from torch.optim.swa_utils import AveragedModel

from rsdistill.captions.base import Captions
from rsdistill.codecs.store import LatentBatch, LatentStore
from rsdistill.diffusion.formulas import min_snr_weight, predicted_x0, training_target
from rsdistill.diffusion.model import DiffusionModel
from rsdistill.diffusion.teacher import LatentTeacher
from rsdistill.diffusion.wording import CaptionTable
from rsdistill.errors import ModelError
from rsdistill.training import StepBatches, TrainerOptions, derived_seed, fit, resolve_device, step_generator


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
class DenoisingOptions:
    """How the denoiser is trained.

    Attributes:
        steps: Optimiser steps.
        max_laps: Times that each latent, every dihedral view counted, is seen at most; fewer steps are
            taken where ``steps`` would go beyond, since a small set is soon learned by heart and its
            tiles are then copies. None takes all steps.
        batch: Latents a step.
        lr: Peak learning rate.
        warm_up: Share of the steps over which the learning rate rises.
        snr_gamma: Gamma of min-SNR weighting; None weights all timesteps alike. On small latents the class is
            decided at high noise, where the weighting all but silences v prediction: see docs/results.md.
        text_dropout: Share of samples whose prompt is emptied, for classifier-free guidance.
        template_share: Where chips have captions, share of samples that are shown the class prompt instead,
            so that both kinds of prompt work.
        ema: Largest decay of the moving average whose weights are kept; 0 keeps the last weights.
        clip: Largest gradient norm.
        consistency: The classification-consistency loss.
    """

    steps: Annotated[int, Field(ge=1)] = 2000
    max_laps: Annotated[float, Field(gt=0)] | None = 25.0
    batch: Annotated[int, Field(ge=1)] = 64
    lr: Annotated[float, Field(gt=0)] = 1e-3
    warm_up: Annotated[float, Field(ge=0, lt=1)] = 0.05
    snr_gamma: Annotated[float, Field(gt=0)] | None = None
    text_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    template_share: Annotated[float, Field(ge=0, le=1)] = 0.1
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.998
    clip: Annotated[float, Field(gt=0)] = 1.0
    consistency: ConsistencyOptions = ConsistencyOptions()

    def limited(self, latents: int) -> DenoisingOptions:
        """The same options with no more steps than ``max_laps`` allows for so many latents."""
        if self.max_laps is None:
            return self
        most = math.ceil(self.max_laps * latents / min(self.batch, latents))
        return replace(self, steps=min(self.steps, most))


def train_denoiser(
    model: DiffusionModel,
    latents: LatentStore,
    prompts: Sequence[str],
    options: DenoisingOptions,
    teacher: LatentTeacher | None = None,
    seed: int = 0,
    folder: str | Path | None = None,
    trainer: TrainerOptions | None = None,
    captions: Captions | None = None,
) -> DiffusionModel:
    """Train UNet and text encoder on the train latents; resumes from the folder's checkpoint.

    Args:
        model: The model to train, changed in place.
        latents: The latent store.
        prompts: One prompt a class.
        options: Training options.
        teacher: Frozen classifier of latents, needed where the consistency loss is on.
        seed: Seed of order, timesteps and noise.
        folder: Where checkpoints and the log go; None keeps none.
        trainer: Devices and the like.
        captions: Captions of the train chips; without them every chip is shown with its class prompt.

    Returns:
        The model, with averaged weights.

    Raises:
        ModelError: If the consistency loss is on and there is no teacher, or captions are of other chips.
    """
    table = None if captions is None else CaptionTable(model, captions, len(latents.positions("train")))
    train = latents.positions("train", views=True)
    options = options.limited(len(train))
    batches = StepBatches(latents.reader(train), len(train), options.batch, derived_seed(seed, 20))
    module = DenoisingModule(model, model.tokenize([*prompts, ""]), options, teacher, seed, table)
    fit(module, batches, options.steps, folder, trainer, label="train")
    module.keep_average()
    model.unet.eval().requires_grad_(False)
    model.text_encoder.eval().requires_grad_(False)
    return model.to(resolve_device(trainer))


class DenoisingModule(lightning.LightningModule):
    """Denoising loss on sampled latents plus, where it is on, the consistency loss.

    Args:
        model: The model to train.
        tokens: Token ids of each class's prompt and of the empty prompt last, (classes + 1, tokens).
        options: Training options.
        teacher: Frozen classifier of latents.
        seed: Seed of every random draw.
        captions: Captions of the train chips; None to train on class prompts alone.

    Raises:
        ModelError: If the consistency loss is on and there is no teacher.
    """

    tokens: torch.Tensor
    alpha_bar: torch.Tensor

    def __init__(
        self,
        model: DiffusionModel,
        tokens: torch.Tensor,
        options: DenoisingOptions,
        teacher: LatentTeacher | None,
        seed: int,
        captions: CaptionTable | None = None,
    ) -> None:
        super().__init__()
        if options.consistency.weight and teacher is None:
            raise ModelError("the classification-consistency loss needs a teacher; train one, or set its weight to 0")
        self.options, self.seed, self.model, self.prediction = options, seed, model, model.prediction
        self.trained = nn.ModuleDict({"unet": model.unet, "text_encoder": model.text_encoder})
        model.prepare_training()
        self.learned = [parameter for parameter in self.trained.parameters() if parameter.requires_grad]
        # Of what trains alone: a frozen base is neither copied nor, being where it was loaded from, checkpointed.
        self.average = AveragedModel(nn.ParameterList(self.learned), avg_fn=self._average) if options.ema else None
        self.strict_loading = False
        if self.average is not None:
            self.average.requires_grad_(False)
        # In a list, so that the frozen teacher is neither saved with the model nor trained.
        self._teacher = [teacher]
        self.captions = captions
        self.register_buffer("tokens", tokens, persistent=False)
        self.register_buffer("alpha_bar", model.scheduler.alphas_cumprod.clone(), persistent=False)

    def training_step(self, batch: LatentBatch, _: int) -> torch.Tensor:
        """One loss, logged in its parts."""
        generator = step_generator(self.seed, 21, self.global_step, self.global_rank)
        count, shape = len(batch.label), batch.mean.shape
        posterior, noise = torch.randn((2, *shape), generator=generator).to(batch.mean)
        clean = batch.mean + torch.exp(0.5 * batch.logvar) * posterior
        timesteps = torch.randint(len(self.alpha_bar), (count,), generator=generator).to(batch.label)
        empty = torch.rand(count, generator=generator).to(batch.mean) < self.options.text_dropout
        alpha_bar = self.alpha_bar[timesteps]
        noisy = self._mix(clean, noise, alpha_bar)
        output = self.model.predict(noisy, timesteps, self._text(batch, empty, generator), ~empty)
        error = F.mse_loss(output, training_target(clean, noise, alpha_bar, self.prediction), reduction="none")
        weight = self._snr_weight(alpha_bar)
        denoising = (error.mean((1, 2, 3)) * weight).mean()
        self.log("denoising", denoising, prog_bar=True)
        if not self.options.consistency.weight:
            return denoising
        estimate = predicted_x0(output, noisy, alpha_bar, self.prediction)
        consistency = self._consistency(estimate, clean, batch.label, alpha_bar)
        self.log("consistency", consistency, prog_bar=True)
        return denoising + self.options.consistency.weight * consistency

    def configure_optimizers(self) -> Any:
        """AdamW, linear warm-up, cosine decay."""
        options = self.options
        optimiser = torch.optim.AdamW(self.learned, options.lr, betas=(0.9, 0.99), weight_decay=1e-2)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimiser, options.lr, total_steps=options.steps + 1, pct_start=options.warm_up, cycle_momentum=False
        )
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def configure_gradient_clipping(self, optimizer: Any, *_: Any, **__: Any) -> None:
        """Clip to the norm of the options."""
        nn.utils.clip_grad_norm_(self.learned, self.options.clip)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Step, then move the average."""
        super().optimizer_step(*args, **kwargs)
        if self.average is not None:
            self.average.update_parameters(nn.ParameterList(self.learned))

    def keep_average(self) -> None:
        """Put the averaged weights into the trained model."""
        if self.average is not None:
            for parameter, held in zip(self.learned, self.average.module.parameters(), strict=True):
                parameter.data.copy_(held)

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """What a checkpoint holds: weights that train, and their average."""
        frozen = {f"trained.{name}" for name, p in self.trained.named_parameters() if not p.requires_grad}
        return {name: value for name, value in super().state_dict(*args, **kwargs).items() if name not in frozen}

    def _average(self, held: torch.Tensor, new: torch.Tensor, count: torch.Tensor | int) -> torch.Tensor:
        # The decay rises with the steps: early weights, far from any optimum, fade quickly.
        decay = torch.clamp(torch.as_tensor((1.0 + count) / (10.0 + count)), max=self.options.ema)
        return torch.lerp(new, held, decay.to(held))

    def _text(self, batch: LatentBatch, empty: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Embeddings of each sample's text; every distinct text passes the encoder once."""
        which = torch.where(empty, len(self.tokens) - 1, batch.label)
        if self.captions is None:
            return self._embedded(self.tokens, which)
        rows = len(self.tokens) + self.captions.draw(batch.chip, generator)
        described = torch.rand(len(empty), generator=generator).to(batch.mean) >= self.options.template_share
        which = torch.where(described & ~empty, rows, which)
        distinct, which = torch.unique(which, return_inverse=True)
        return self._embedded(torch.cat([self.tokens, self.captions.ids])[distinct], which)

    def _embedded(self, tokens: torch.Tensor, which: torch.Tensor) -> torch.Tensor:
        hidden = self.trained["text_encoder"](tokens).last_hidden_state
        # A product instead of an index: the gradient of an index adds up in an order that threads decide.
        one_hot = F.one_hot(which, len(tokens)).to(hidden)
        chosen: torch.Tensor = (one_hot @ hidden.flatten(1)).unflatten(1, hidden.shape[1:])
        return chosen

    def _snr_weight(self, alpha_bar: torch.Tensor) -> torch.Tensor:
        if self.options.snr_gamma is None:
            return torch.ones_like(alpha_bar)
        return min_snr_weight(alpha_bar, self.prediction, self.options.snr_gamma)

    def _consistency(
        self, estimate: torch.Tensor, clean: torch.Tensor, labels: torch.Tensor, alpha_bar: torch.Tensor
    ) -> torch.Tensor:
        teacher = self._teacher[0]
        assert teacher is not None
        teacher = teacher.to(estimate.device)
        # Where the gate is shut the teacher need not look: it costs as much as the denoiser.
        seen = torch.nonzero(alpha_bar >= self.options.consistency.min_alpha_bar).flatten()
        if not len(seen):
            return 0.0 * estimate.sum()
        logits = teacher(estimate[seen])
        if self.options.consistency.target == "label":
            loss = F.cross_entropy(logits, labels[seen], reduction="none")
        else:
            with torch.no_grad():
                wanted = teacher(clean[seen]).log_softmax(1)
            loss = F.kl_div(logits.log_softmax(1), wanted, log_target=True, reduction="none").sum(1)
        return (alpha_bar[seen] * loss).sum() / len(alpha_bar)

    @staticmethod
    def _mix(clean: torch.Tensor, noise: torch.Tensor, alpha_bar: torch.Tensor) -> torch.Tensor:
        alpha = alpha_bar.reshape(-1, 1, 1, 1)
        return alpha.sqrt() * clean + (1.0 - alpha).sqrt() * noise
