"""Noise and velocity parameterization of a denoiser: estimates, targets, loss weights, and draws of a step."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F

from rsdistill.errors import ModelError


def predicted_x0(output: torch.Tensor, noisy: torch.Tensor, alpha_bar: torch.Tensor, prediction: str) -> torch.Tensor:
    """Estimate of the clean latent from the model's output.

    ``epsilon``: ``(z_t − √(1−ᾱ)·ε) / √ᾱ``; ``v_prediction``: ``√ᾱ·z_t − √(1−ᾱ)·v`` (Salimans and Ho 2022).

    Args:
        output: Model output, (N, C, h, w).
        noisy: Noisy latents z_t, (N, C, h, w).
        alpha_bar: Cumulative product ᾱ_t of each sample, (N,) or ().
        prediction: ``epsilon`` or ``v_prediction``.

    Raises:
        ModelError: If the prediction type is another.
    """
    alpha = alpha_bar.reshape(-1, 1, 1, 1).to(noisy)
    signal, noise = alpha.sqrt(), (1.0 - alpha).sqrt()
    if prediction == "epsilon":
        return (noisy - noise * output) / signal
    if prediction == "v_prediction":
        return signal * noisy - noise * output
    raise ModelError(f"prediction type '{prediction}' is not supported; use epsilon or v_prediction")


def training_target(clean: torch.Tensor, noise: torch.Tensor, alpha_bar: torch.Tensor, prediction: str) -> torch.Tensor:
    """What the model is to predict: ``ε``, or ``v = √ᾱ·ε − √(1−ᾱ)·z_0``; shapes as in :func:`predicted_x0`."""
    if prediction == "epsilon":
        return noise
    alpha = alpha_bar.reshape(-1, 1, 1, 1).to(clean)
    return alpha.sqrt() * noise - (1.0 - alpha).sqrt() * clean


def min_snr_weight(alpha_bar: torch.Tensor, prediction: str, gamma: float = 5.0) -> torch.Tensor:
    """Min-SNR-gamma loss weights (Hang et al. 2023).

    ``min(SNR, γ)/SNR`` for epsilon and ``min(SNR, γ)/(SNR+1)`` for v prediction, SNR = ᾱ/(1−ᾱ).

    Args:
        alpha_bar: ᾱ_t, (N,).
        prediction: ``epsilon`` or ``v_prediction``.
        gamma: Where the weight stops growing.

    Returns:
        Weights of shape (N,).
    """
    snr = alpha_bar / (1.0 - alpha_bar)
    capped = snr.clamp(max=gamma)
    return capped / (snr if prediction == "epsilon" else snr + 1.0)


def lowpass(latents: torch.Tensor, grid_size: int | None) -> torch.Tensor:
    """Latents (N, C, h, w) averaged over a grid of ``grid_size`` x ``grid_size`` and spread back; None leaves them."""
    if grid_size is None:
        return latents
    pooled = F.adaptive_avg_pool2d(latents, grid_size)
    return F.interpolate(pooled, size=latents.shape[-2:], mode="nearest")


class Draw(NamedTuple):
    """Clean latents with the noise, timestep and text drawn for them.

    Attributes:
        clean: Clean latents z₀, (n, C, h, w).
        noise: Noise ε, (n, C, h, w).
        timestep: Timesteps, int64 (n,).
        text: Row of each sample's text: of the class prompts, the empty prompt and the captions, int64 (n,).
        told: Which samples have a text at all, bool (n,).
        label: Class positions, int64 (n,).
    """

    clean: torch.Tensor
    noise: torch.Tensor
    timestep: torch.Tensor
    text: torch.Tensor
    told: torch.Tensor
    label: torch.Tensor

    def part(self, number: int, parts: int) -> Draw:
        """One of so many parts, of sizes that differ by one at most."""
        return Draw(*(value.tensor_split(parts)[number] for value in self))

    def to(self, device: torch.device) -> Draw:
        """The same on a device."""
        return Draw(*(value.to(device) for value in self))
