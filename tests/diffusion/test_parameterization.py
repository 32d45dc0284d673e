"""Formulas against diffusers' own, and guidance against its properties."""

from __future__ import annotations

import pytest
import torch
from diffusers import DDIMScheduler
from diffusers.training_utils import compute_snr

from rsdistill.captions import class_prompts
from rsdistill.classes import ClassInfo
from rsdistill.diffusion.guidance import GuidanceOptions, guide
from rsdistill.diffusion.parameterization import lowpass, min_snr_weight, predicted_x0, training_target
from rsdistill.diffusion.teacher import margin
from rsdistill.errors import ModelError, OptionError

PREDICTIONS = ("epsilon", "v_prediction")


def scheduler(prediction):
    return DDIMScheduler(beta_schedule="scaled_linear", prediction_type=prediction, clip_sample=False)


def latents(*shape, seed=0):
    return torch.randn(shape or (3, 4, 8, 8), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("timestep", [0, 250, 999])
def test_the_clean_estimate_is_the_schedulers(prediction, timestep):
    stock = scheduler(prediction)
    stock.set_timesteps(1000)
    output, noisy = latents(), latents(seed=1)
    wanted = stock.step(output, timestep, noisy).pred_original_sample
    found = predicted_x0(output, noisy, stock.alphas_cumprod[timestep], prediction)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_a_perfect_output_gives_the_clean_latent_back(prediction):
    alpha_bar = torch.tensor([0.9, 0.5, 0.1])
    clean, noise = latents(), latents(seed=1)
    alpha = alpha_bar.reshape(-1, 1, 1, 1)
    noisy = alpha.sqrt() * clean + (1 - alpha).sqrt() * noise
    output = training_target(clean, noise, alpha_bar, prediction)
    torch.testing.assert_close(predicted_x0(output, noisy, alpha_bar, prediction), clean, rtol=1e-4, atol=1e-5)


def test_the_training_target_is_the_schedulers():
    stock, timesteps = scheduler("v_prediction"), torch.tensor([3, 500, 998])
    clean, noise = latents(), latents(seed=1)
    alpha_bar = stock.alphas_cumprod[timesteps]
    wanted = stock.get_velocity(clean, noise, timesteps)
    torch.testing.assert_close(training_target(clean, noise, alpha_bar, "v_prediction"), wanted)
    assert training_target(clean, noise, alpha_bar, "epsilon") is noise


def test_other_predictions_are_refused():
    with pytest.raises(ModelError, match="'sample' is not supported"):
        predicted_x0(latents(), latents(), torch.tensor(0.5), "sample")


@pytest.mark.parametrize("gamma", [1.0, 5.0])
def test_min_snr_weights_are_diffusers_own(gamma):
    stock, timesteps = scheduler("epsilon"), torch.tensor([0, 100, 500, 900, 999])
    snr = compute_snr(stock, timesteps)
    capped = torch.minimum(snr, torch.full_like(snr, gamma))
    alpha_bar = stock.alphas_cumprod[timesteps]
    torch.testing.assert_close(min_snr_weight(alpha_bar, "epsilon", gamma), capped / snr, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(
        min_snr_weight(alpha_bar, "v_prediction", gamma), capped / (snr + 1), rtol=1e-4, atol=1e-6
    )


def test_min_snr_weights_bear_pure_noise():
    assert min_snr_weight(torch.zeros(1), "v_prediction").tolist() == [0.0]


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("grid_size", [None, 1, 2])
def test_stronger_guidance_brings_the_clean_estimate_nearer(prediction, grid_size):
    alpha_bar, prototypes = torch.tensor(0.4), latents(seed=2)
    noisy, output = latents(), latents(seed=1)
    clean = predicted_x0(output, noisy, alpha_bar, prediction)

    def distance(scale):
        guided = guide(noisy, clean, prototypes, alpha_bar, GuidanceOptions(scale=scale, grid_size=grid_size))
        return (prototypes - predicted_x0(output, guided, alpha_bar, prediction)).flatten(1).norm(dim=1)

    # Below the length of the whole way, so that it cannot overshoot.
    way = lowpass(prototypes - clean, grid_size).flatten(1).norm(dim=1).min()
    reach = 0.9 * float(way / predicted_x0_shift(alpha_bar, prediction))
    distances = torch.stack([distance(scale) for scale in torch.linspace(0, reach, 6).tolist()])
    assert torch.all(distances.diff(dim=0) < 0)


def predicted_x0_shift(alpha_bar, prediction):
    """How far the clean estimate moves for a guidance scale of 1, the output being held."""
    moved = (1 - alpha_bar).sqrt()
    return moved / alpha_bar.sqrt() if prediction == "epsilon" else moved * alpha_bar.sqrt()


def test_guidance_is_the_papers_formula():
    noisy, clean, prototypes = latents(), latents(seed=1), latents(seed=2)
    found = guide(noisy, clean, prototypes, torch.tensor(0.3), GuidanceOptions(scale=1.5, grid_size=None))
    for n in range(3):
        way = prototypes[n] - clean[n]
        torch.testing.assert_close(found[n], noisy[n] + 1.5 * 0.7**0.5 * way / way.square().sum().sqrt())


@pytest.mark.parametrize("grid_size", [1, 2])
def test_guidance_by_cells_moves_their_means_alone(grid_size):
    noisy, clean, prototypes = torch.zeros(3, 4, 8, 8), latents(seed=1), latents(seed=2)
    moved = guide(noisy, clean, prototypes, torch.tensor(0.3), GuidanceOptions(scale=2.0, grid_size=grid_size))
    torch.testing.assert_close(moved, lowpass(moved, grid_size))
    assert torch.unique(moved[0, 0].round(decimals=5)).numel() == grid_size**2
    torch.testing.assert_close(moved.flatten(1).norm(dim=1), torch.full((3,), 2.0 * 0.7**0.5))
    # A prototype with other details but the same means guides alike: its details cannot be copied.
    details = latents(seed=3)
    other = prototypes + details - lowpass(details, grid_size)
    again = guide(noisy, clean, other, torch.tensor(0.3), GuidanceOptions(scale=2.0, grid_size=grid_size))
    torch.testing.assert_close(again, moved, rtol=1e-4, atol=1e-5)


def test_guidance_at_the_goal_stays():
    noisy, clean = latents(), latents(seed=1)
    assert torch.equal(guide(noisy, clean, clean, torch.tensor(0.3), GuidanceOptions()), noisy)


def test_guidance_acts_in_its_share_of_the_steps():
    def active(**options):
        return [GuidanceOptions(**options).active(step, 10) for step in range(10)]

    assert active() == [True] * 8 + [False] * 2
    assert active(end=0.5) == [True] * 5 + [False] * 5
    assert not any(active(scale=0.0)) and all(active(end=1.0))


def test_the_margin_is_target_minus_best_other():
    logits, labels = latents(20, 5), torch.arange(20) % 5
    found = margin(logits, labels)
    for row, label, value in zip(logits, labels, found, strict=True):
        assert value == row[label] - max(row[j] for j in range(5) if j != label)


def test_prompts_name_their_classes():
    classes = [ClassInfo("storagetanks", "storage tanks"), ClassInfo("river", "river")]
    assert class_prompts(classes) == ["A satellite image of storage tanks", "A satellite image of river"]
    for template in ("An image", "An image of {nmae}", "An image of {"):
        with pytest.raises(OptionError, match="write {name}"):
            class_prompts(classes, template)
