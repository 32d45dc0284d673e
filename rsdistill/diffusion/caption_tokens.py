"""Which text a denoiser is shown with a chip: one of the chip's own captions, drawn anew at each step."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from rsdistill.captions.base import Captions
from rsdistill.diffusion.model import DiffusionModel
from rsdistill.errors import ModelError


def sentences(captions: Captions | None) -> list[str]:
    """All sentences of captions, chip by chip; none where there are no captions."""
    return [] if captions is None else [text for texts in captions.texts for text in texts]


def count_cut(model: DiffusionModel, captions: Captions) -> int:
    """How many distinct sentences are longer than the tokenizer's window, so that their end is not seen."""
    lengths = [len(ids) for ids in model.tokenizer(sorted(set(sentences(captions))), verbose=False).input_ids]
    return sum(length > model.tokenizer.model_max_length for length in lengths)


class CaptionTable(nn.Module):
    """Token ids of the captions of all train chips, each distinct sentence once.

    Args:
        model: The model whose tokenizer reads them.
        captions: Captions of the train chips.
        chips: How many train chips there are.

    Attributes:
        ids: Token ids of the distinct sentences, int64 (sentences, tokens).

    Raises:
        ModelError: If the captions are of other chips.
    """

    ids: torch.Tensor
    row: torch.Tensor
    first: torch.Tensor
    count: torch.Tensor

    def __init__(self, model: DiffusionModel, captions: Captions, chips: int) -> None:
        super().__init__()
        if captions.split != "train" or len(captions) != chips:
            raise ModelError(
                f"captions of {len(captions)} {captions.split} chips do not fit {chips} train chips; caption the "
                f"dataset that the latents are of"
            )
        said = sentences(captions)
        distinct = sorted(set(said))
        place = {text: row for row, text in enumerate(distinct)}
        count = np.array([len(texts) for texts in captions.texts])
        self.register_buffer("ids", model.tokenize(distinct), persistent=False)
        self.register_buffer("count", torch.from_numpy(count), persistent=False)
        self.register_buffer("first", torch.from_numpy(np.cumsum(count) - count), persistent=False)
        self.register_buffer("row", torch.tensor([place[text] for text in said]), persistent=False)

    def draw(self, chips: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Rows of :attr:`ids`, one sentence drawn for each of these chips, int64 (n,)."""
        share = torch.rand(len(chips), generator=generator).to(chips.device)
        count = self.count[chips]
        # The share is below 1, but its product can be rounded up to the count.
        which = torch.minimum((share * count).long(), count - 1)
        drawn: torch.Tensor = self.row[self.first[chips] + which]
        return drawn
