"""Training of the denoiser on cached latents, with the classification-consistency loss."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import lightning
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import nn
from torch.optim.swa_utils import AveragedModel

from rsdistill.captions.base import Captions
from rsdistill.codecs.store import LatentBatch, LatentStore
from rsdistill.diffusion.caption_tokens import CaptionTable
from rsdistill.diffusion.lora import repeatable_dropout
from rsdistill.diffusion.model import DiffusionModel
from rsdistill.diffusion.monitoring import SampleGrid, Validation, WatchOptions
from rsdistill.diffusion.parameterization import Draw, min_snr_weight, predicted_x0, training_target
from rsdistill.diffusion.teacher import ConsistencyOptions, LatentTeacher, judge
from rsdistill.errors import ModelError, OptionError
from rsdistill.training.callbacks import LOG, StepMonitor
from rsdistill.training.trainer import StepBatches, TrainerOptions, derived_seed, fit, resolve_device, step_generator

# Share of samples that are shown the class prompt in place of a caption, so that both kinds of prompt work.
CLASS_PROMPT_SHARE = 0.1


@dataclass(frozen=True)
class DenoisingOptions:
    """How the denoiser is trained.

    Attributes:
        steps: Optimiser steps.
        max_epochs: Times that each latent, every dihedral view counted, is seen at most; fewer steps are
            taken where ``steps`` would go beyond, since a small set is soon memorised and its tiles
            are then copies. None takes all steps.
        batch: Latents a step.
        accumulate: Parts in which a step's batch passes the model, one after another, where memory is short.
            The step is the same.
        lr: Peak learning rate.
        schedule: What the learning rate does after its rise: ``cosine`` falls to nothing, ``constant`` stays.
        warmup_ratio: Share of the steps over which the learning rate rises.
        snr_gamma: Gamma of min-SNR weighting; None weights all timesteps alike. On small latents the class is
            decided at high noise, where the weighting all but silences v prediction: see docs/results.md.
        prompt_dropout: Share of samples whose prompt is emptied, for classifier-free guidance.
        ema_decay: Largest decay of the moving average whose weights are kept; 0 keeps the last weights.
        max_grad_norm: Largest gradient norm.
        gradient_checkpointing: Compute the activations of UNet and text encoder anew in the backward pass
            instead of keeping them: less memory, about 40 % more time, the same weights.
        consistency: The classification-consistency loss.
        watch: Validation loss and pictures while training.
    """

    RENAMED: ClassVar[dict[str, str]] = {
        "max_laps": "max_epochs",
        "warm_up": "warmup_ratio",
        "text_dropout": "prompt_dropout",
        "ema": "ema_decay",
        "clip": "max_grad_norm",
        "template_share": "a tenth of the samples with captions are always shown the class prompt",
    }

    steps: Annotated[int, Field(ge=1)] = 2000
    max_epochs: Annotated[float, Field(gt=0)] | None = 25.0
    batch: Annotated[int, Field(ge=1)] = 64
    accumulate: Annotated[int, Field(ge=1)] = 1
    lr: Annotated[float, Field(gt=0)] = 1e-3
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup_ratio: Annotated[float, Field(ge=0, lt=1)] = 0.05
    snr_gamma: Annotated[float, Field(gt=0)] | None = None
    prompt_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.998
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    gradient_checkpointing: bool = False
    consistency: ConsistencyOptions = ConsistencyOptions()
    watch: WatchOptions = WatchOptions()

    def limited(self, latents: int) -> DenoisingOptions:
        """The same options with no more steps than ``max_epochs`` allows for so many latents."""
        if self.max_epochs is None:
            return self
        most = math.ceil(self.max_epochs * latents / min(self.batch, latents))
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
    monitors = [] if folder is None else _monitors(module, latents, prompts, Path(folder) / LOG)
    fit(
        module, batches, options.steps, folder, trainer, label="train", accumulate=options.accumulate, monitors=monitors
    )
    module.finish()
    model.unet.eval().requires_grad_(False)
    model.text_encoder.eval().requires_grad_(False)
    return model.to(resolve_device(trainer))


def _monitors(module: DenoisingModule, latents: LatentStore, prompts: Sequence[str], log: Path) -> list[StepMonitor]:
    options, watch, monitors = module.options, module.options.watch, []
    if watch.validation and len(latents.positions("val")):
        # No more at a time than training takes.
        most = options.batch / options.accumulate
        validation = Validation(module, latents, watch.draws, most, options.consistency)
        monitors.append(StepMonitor(watch.validation, validation))
    if watch.samples:
        monitors.append(StepMonitor(watch.samples, SampleGrid(module, latents, prompts, log, watch.columns)))
    return monitors


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
        self.average: AveragedModel | None = None
        if options.ema_decay:
            self.average = AveragedModel(nn.ParameterList(self.learned), avg_fn=self._average)
        self.strict_loading = False
        if self.average is not None:
            self.average.requires_grad_(False)
        # In a list, so that the frozen teacher is neither saved with the model nor trained.
        self._teacher = [teacher]
        self.captions = captions
        if options.gradient_checkpointing:
            self._compute_anew(True)
        self._part, self._sums = 0, dict[str, Any]()
        self._class_text: torch.Tensor | None = None
        self.register_buffer("tokens", tokens, persistent=False)
        self.register_buffer("alpha_bar", model.scheduler.alphas_cumprod.clone(), persistent=False)

    @property
    def teacher(self) -> LatentTeacher | None:
        """The frozen classifier of latents."""
        return self._teacher[0]

    @property
    def averages(self) -> bool:
        """Whether it keeps a moving average of its weights."""
        return self.average is not None

    def training_step(self, batch: LatentBatch, _: int) -> torch.Tensor:
        """Loss of a batch or, where a step takes several parts, of the next part; both terms are logged."""
        whole, parts = self._draw(batch), self.options.accumulate
        if len(whole.label) < parts:
            raise OptionError(
                f"training.accumulate {parts} is more than the {len(whole.label)} latents that a process has of a "
                "batch; lower it, or raise training.batch"
            )
        draw = whole.part(self._part, parts)
        share = len(draw.label) / len(whole.label)
        moment = (self.global_step, self.global_rank, self._part)
        with repeatable_dropout(self.trained, derived_seed(self.seed, 24, *moment)):
            error, estimate = self.denoise(draw)
        denoising = error.mean() * share
        figures: dict[str, Any] = {"denoising": denoising}
        loss = denoising
        if self.options.consistency.weight and self.teacher is not None:
            alpha_bar = self.alpha_bar[draw.timestep]
            judged = judge(self.teacher, estimate, draw.clean, draw.label, alpha_bar, self.options.consistency)
            consistency = judged.loss * share
            figures |= {"consistency": consistency, "right": judged.right, "seen": judged.seen}
            loss = denoising + self.options.consistency.weight * consistency
        self._part += 1
        self._note(figures, last=self._part == parts)
        # Lightning divides the loss by the number of parts.
        return loss * parts

    def denoise(self, draw: Draw) -> tuple[torch.Tensor, torch.Tensor]:
        """Weighted squared error of each sample (n,), and its clean estimate ẑ₀ (n, C, h, w)."""
        alpha_bar = self.alpha_bar[draw.timestep]
        noisy = self._mix(draw.clean, draw.noise, alpha_bar)
        # Of whatever precision the model computed in, losses are in full.
        output = self.model.predict(noisy, draw.timestep, self.embed_rows(draw.text), draw.told).float()
        target = training_target(draw.clean, draw.noise, alpha_bar, self.prediction)
        error = F.mse_loss(output, target, reduction="none").mean((1, 2, 3)) * self._snr_weight(alpha_bar)
        return error, predicted_x0(output, noisy, alpha_bar, self.prediction)

    def _draw(self, batch: LatentBatch) -> Draw:
        """Random numbers of a whole batch; they depend on seed, step and process alone."""
        generator = step_generator(self.seed, 21, self.global_step, self.global_rank)
        count, shape = len(batch.label), batch.mean.shape
        posterior, noise = torch.randn((2, *shape), generator=generator).to(batch.mean)
        clean = batch.mean + torch.exp(0.5 * batch.logvar) * posterior
        timestep = torch.randint(len(self.alpha_bar), (count,), generator=generator).to(batch.label)
        empty = torch.rand(count, generator=generator).to(batch.mean) < self.options.prompt_dropout
        return Draw(clean, noise, timestep, self.text_rows(batch, empty, generator), ~empty, batch.label)

    def _note(self, figures: dict[str, Any], last: bool) -> None:
        """Log the sums of a step's parts after its last one."""
        for name, value in figures.items():
            self._sums[name] = self._sums.get(name, 0) + (value.detach() if torch.is_tensor(value) else value)
        if not last:
            return
        sums, self._sums = self._sums, {}
        if "seen" in sums:
            right, seen = sums.pop("right"), sums.pop("seen")
            self.log("teacher_oa", right / seen if seen else torch.nan)
        for name, value in sums.items():
            self.log(name, value, prog_bar=True)

    @contextmanager
    def swapped_weights(self, averaged: bool) -> Iterator[None]:
        """The model as it is used, with averaged or live weights; training then continues with the live weights."""
        live = [parameter.data for parameter in self.learned]
        shown = self.average.module.parameters() if averaged and self.average is not None else self.learned
        try:
            for parameter, value in zip(self.learned, shown, strict=True):
                parameter.data = value.data
            self.trained.eval()
            with torch.no_grad():
                yield
        finally:
            self.trained.train()
            for parameter, kept in zip(self.learned, live, strict=True):
                parameter.data = kept

    def _compute_anew(self, on: bool) -> None:
        """Whether the backward pass computes activations anew instead of keeping them."""
        unet, encoder, word = self.model.unet, self.model.text_encoder, "enable" if on else "disable"
        getattr(unet, f"{word}_gradient_checkpointing")()
        # transformers 5 has another name for it.
        names = (f"{kind}_checkpointing_{word}" for kind in ("activation", "gradient"))
        switch = getattr(encoder, next(name for name in names if hasattr(encoder, name)))
        switch({"use_reentrant": False}) if on else switch()

    def configure_optimizers(self) -> Any:
        """AdamW, warm-up, then cosine decay or none."""
        options = self.options
        optimiser = torch.optim.AdamW(self.learned, options.lr, betas=(0.9, 0.99), weight_decay=1e-2)
        if options.schedule == "cosine":
            schedule: Any = torch.optim.lr_scheduler.OneCycleLR(
                optimiser,
                options.lr,
                total_steps=options.steps + 1,
                pct_start=options.warmup_ratio,
                cycle_momentum=False,
            )
        else:
            rise = 1 + round(options.warmup_ratio * options.steps)
            schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: min(1.0, (1 + step) / rise))
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_train_start(self) -> None:
        """Begin with the first part of a batch."""
        self._part, self._sums = 0, {}

    def configure_gradient_clipping(self, optimizer: Any, *_: Any, **__: Any) -> None:
        """Clip to the norm of the options."""
        nn.utils.clip_grad_norm_(self.learned, self.options.max_grad_norm)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Step, then move the average."""
        super().optimizer_step(*args, **kwargs)
        self._part = 0
        if self.average is not None:
            self.average.update_parameters(nn.ParameterList(self.learned))

    def finish(self) -> None:
        """Put the averaged weights into the model, and leave it as it is used."""
        if self.average is not None:
            for parameter, held in zip(self.learned, self.average.module.parameters(), strict=True):
                parameter.data.copy_(held)
        if self.options.gradient_checkpointing:
            self._compute_anew(False)

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """What a checkpoint holds: weights that train, and their average."""
        frozen = {f"trained.{name}" for name, p in self.trained.named_parameters() if not p.requires_grad}
        return {name: value for name, value in super().state_dict(*args, **kwargs).items() if name not in frozen}

    def _average(self, held: torch.Tensor, new: torch.Tensor, count: torch.Tensor | int) -> torch.Tensor:
        # The decay rises with the steps: early weights, far from any optimum, fade quickly.
        decay = torch.clamp(torch.as_tensor((1.0 + count) / (10.0 + count)), max=self.options.ema_decay)
        return torch.lerp(new, held, decay.to(held))

    def text_rows(self, batch: LatentBatch, empty: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Row of each sample's text, int64 (n,), of the class prompts, the empty prompt and the captions.

        Args:
            batch: Latents of n samples.
            empty: Which of them are shown the empty prompt, bool (n,).
            generator: Draws captions.
        """
        which = torch.where(empty, len(self.tokens) - 1, batch.label)
        if self.captions is None:
            return which
        rows = len(self.tokens) + self.captions.draw(batch.chip, generator)
        described = torch.rand(len(empty), generator=generator).to(batch.mean) >= CLASS_PROMPT_SHARE
        return torch.where(described & ~empty, rows, which)

    def embed_rows(self, which: torch.Tensor) -> torch.Tensor:
        """Rows (n,) to text embeddings (n, tokens, width); every distinct text passes the encoder once."""
        if self.captions is None:
            return self._embedded(self.tokens, which)
        distinct, which = torch.unique(which, return_inverse=True)
        return self._embedded(torch.cat([self.tokens, self.captions.ids])[distinct], which)

    def _embedded(self, tokens: torch.Tensor, which: torch.Tensor) -> torch.Tensor:
        hidden = self._hidden(tokens)
        # A product instead of an index: the gradient of an index adds up in an order that threads decide.
        one_hot = F.one_hot(which, len(tokens)).to(hidden)
        chosen: torch.Tensor = (one_hot @ hidden.flatten(1)).unflatten(1, hidden.shape[1:])
        return chosen

    def _hidden(self, tokens: torch.Tensor) -> torch.Tensor:
        """Embeddings of texts (n, tokens, width); class prompts pass an encoder that does not learn once in all."""
        if self._class_text is not None:
            return self._class_text
        encoder = self.trained["text_encoder"]
        hidden: torch.Tensor = encoder(tokens).last_hidden_state
        if self.captions is None and not any(parameter.requires_grad for parameter in encoder.parameters()):
            self._class_text = hidden.float()
        return hidden

    def _snr_weight(self, alpha_bar: torch.Tensor) -> torch.Tensor:
        if self.options.snr_gamma is None:
            return torch.ones_like(alpha_bar)
        return min_snr_weight(alpha_bar, self.prediction, self.options.snr_gamma)

    @staticmethod
    def _mix(clean: torch.Tensor, noise: torch.Tensor, alpha_bar: torch.Tensor) -> torch.Tensor:
        alpha = alpha_bar.reshape(-1, 1, 1, 1)
        return alpha.sqrt() * clean + (1.0 - alpha).sqrt() * noise
