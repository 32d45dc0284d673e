"""A codec that is no autoencoder of diffusers: means of blocks of pixels."""

from __future__ import annotations

import torch

from rsdistill.bands import BandSet
from rsdistill.codecs import Codec


class BlockMeans(Codec):
    """Block means in units of about unit variance; nothing is learned."""

    name = "block-means"

    def __init__(self, bands, block: int = 2) -> None:
        self.bands, self.block = bands, block

    @property
    def latent_channels(self):
        return len(self.bands)

    @property
    def factor(self):
        return self.block

    def fit(self, data, folder=None, trainer=None):
        return self

    def posterior(self, images):
        mean = torch.nn.functional.avg_pool2d(images / 1000 - 2, self.block)
        return mean, torch.full_like(mean, -30.0)

    def decode(self, latents):
        return (latents.repeat_interleave(self.block, -1).repeat_interleave(self.block, -2) + 2) * 1000

    def to(self, device):
        return self

    def save_weights(self, folder):
        return {"block": self.block}

    @classmethod
    def load_weights(cls, folder, description):
        return cls(BandSet.from_dict(description["bands"]), description["block"])
