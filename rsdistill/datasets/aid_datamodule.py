"""AID datamodule, in the manner of torchgeo."""

from __future__ import annotations

from typing import Any

import kornia.augmentation as K
import torch
from torch.utils.data import random_split
from torchgeo.datamodules import NonGeoDataModule

from rsdistill.datasets.aid import AID


class AIDDataModule(NonGeoDataModule):  # type: ignore[misc,unused-ignore]
    """LightningDataModule implementation for the AID dataset.

    Uses random train/val/test splits.
    """

    def __init__(
        self,
        batch_size: int = 64,
        num_workers: int = 0,
        val_split_pct: float = 0.2,
        test_split_pct: float = 0.2,
        **kwargs: Any,
    ) -> None:
        """Initialize a new AIDDataModule instance.

        Args:
            batch_size: Size of each mini-batch.
            num_workers: Number of workers for parallel data loading.
            val_split_pct: Fraction of dataset to use for validation.
            test_split_pct: Fraction of dataset to use for testing.
            **kwargs: Additional keyword arguments passed to :class:`~rsdistill.datasets.aid.AID`.
        """
        super().__init__(AID, batch_size, num_workers, **kwargs)
        self.val_split_pct = val_split_pct
        self.test_split_pct = test_split_pct
        self.train_aug = K.AugmentationSequential(
            K.Normalize(mean=self.mean, std=self.std),
            K.Resize(size=(256, 256)),
            K.RandomHorizontalFlip(p=0.5),
            K.RandomVerticalFlip(p=0.5),
            data_keys=None,
            keepdim=True,
        )
        self.aug = K.AugmentationSequential(
            K.Normalize(mean=self.mean, std=self.std), K.Resize(size=(256, 256)), data_keys=None, keepdim=True
        )

    def setup(self, stage: str) -> None:
        """Set up datasets.

        Args:
            stage: Either 'fit', 'validate', 'test', or 'predict'.
        """
        dataset = AID(**self.kwargs)
        train_split_pct = 1 - self.val_split_pct - self.test_split_pct
        self.train_dataset, self.val_dataset, self.test_dataset = random_split(
            dataset,
            [train_split_pct, self.val_split_pct, self.test_split_pct],
            torch.Generator().manual_seed(0),
        )
