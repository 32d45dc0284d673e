"""Captions rendered chips in a process of its own, which tests may kill or run twice: JSON of options as argument."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path


def main(options):
    from rsdistill.captions import create_captioner
    from rsdistill.captions.vlm_model import VisionLanguageModel
    from rsdistill.datasets import load_dataset
    from rsdistill.training.trainer import TrainerOptions

    asked = []
    answer = VisionLanguageModel.answer

    def counted(self, questions, length):
        while len(asked) == options.get("stall_after"):
            time.sleep(0.1)
        asked.append(len(questions))
        return answer(self, questions, length)

    VisionLanguageModel.answer = counted
    data = load_dataset("synthetic", size=16, chips_per_class=12, classes=["forest", "beach", "solar_farm"])
    trainer = TrainerOptions(accelerator="cpu", progress=False, **options.get("trainer", {}))
    for out, captioner in options["runs"].items():
        made = create_captioner("vlm", **captioner).caption(data, "train", Path(f"{out}.work"), trainer)
        if trainer.devices == 1 or _first():
            made.save(out)
            Path(f"{out}.asked").write_text(json.dumps(asked))
        asked.clear()


def _first():
    from rsdistill.pipeline.engine import process_rank

    return process_rank() == 0


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
