"""A codec that is no AutoencoderKL: denoisers from scratch take it, stock pipelines do not."""

import pytest
import torch
from helpers.plain_codec import BlockMeans
from helpers.pretrained_pipelines import save_pipeline

from rsdistill.bands import get_bands
from rsdistill.diffusion.model import DiffusionModel
from rsdistill.diffusion.model_factory import ModelPlan
from rsdistill.errors import ModelError


@pytest.fixture(scope="module")
def model():
    codec = BlockMeans(get_bands("bgrn"))
    return ModelPlan("tiny").build(codec, ["forest", "beach"], size=16, seed=0)


def test_model_has_no_vae_and_no_stock_pipeline(model):
    assert model.vae is None and model.unet.config.in_channels == 4
    with pytest.raises(ModelError, match="no stock pipeline for this model: its codec is no AutoencoderKL"):
        model.pipeline()


def test_model_comes_back_equal(model, tmp_path):
    back = DiffusionModel.load(model.save(tmp_path))
    assert not (tmp_path / "model_index.json").exists() and not (tmp_path / "vae").exists()
    noisy, tokens = torch.randn(1, 4, 8, 8), model.tokenize(["forest"])
    assert torch.equal(back.tokenize(["forest"]), tokens)
    text = model.text_encoder.eval()(tokens).last_hidden_state
    times = torch.tensor([10])
    with torch.no_grad():
        torch.testing.assert_close(
            back.predict(noisy, times, text), model.unet.eval() and model.predict(noisy, times, text)
        )
    (tmp_path / "unet" / "config.json").unlink()
    with pytest.raises(ModelError, match="cannot be read"):
        DiffusionModel.load(tmp_path)


def test_pretrained_preset_refuses_the_codec(tmp_path):
    plan = ModelPlan(str(save_pipeline("sd15", tmp_path / "sd15")))
    with pytest.raises(ModelError, match="codec 'block-means' is no AutoencoderKL; choose codec 'pretrained'"):
        plan.build(BlockMeans(get_bands("bgrn")), ["forest"], size=32, seed=0)
