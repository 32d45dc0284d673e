"""A vision-language model of transformers, loaded by hub id or from a folder, and asked in batches."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from rsdistill.errors import ModelError
from rsdistill.utils.provenance import file_digest

if TYPE_CHECKING:
    from collections.abc import Iterator

Precision = Literal["auto", "float32", "bfloat16", "float16"]

# Processors of these put the picture's tokens before a plain prompt by themselves, and take one picture.
_ONE_PICTURE = ("blip", "blip-2", "git", "instructblip", "pix2struct")
_PLACES_PICTURES = (*_ONE_PICTURE, "florence2", "fuyu", "paligemma")
_KINDS = "such as Qwen2-VL, LLaVA or BLIP-2"


@dataclass(frozen=True)
class Question:
    """What a model is asked once.

    Attributes:
        pictures: Pictures to look at, (H, W, 3) uint8; may be none.
        text: The words that go with them.
    """

    pictures: tuple[NDArray[np.uint8], ...]
    text: str

    @property
    def pictures_digest(self) -> str:
        """sha256 of the pictures' size and content, in hexadecimal."""
        found = hashlib.sha256()
        for picture in self.pictures:
            found.update(f"{picture.shape}".encode())
            found.update(np.ascontiguousarray(picture).tobytes())
        return found.hexdigest()


def resolve_precision(wanted: Precision, device: torch.device) -> torch.dtype:
    """The number format that a model is run in: half where ``auto`` finds an accelerator, full on a CPU."""
    if wanted != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[wanted]
    if device.type == "cpu":
        return torch.float32
    return torch.bfloat16 if device.type != "cuda" or torch.cuda.is_bf16_supported() else torch.float16


class VisionLanguageModel(torch.nn.Module):
    """A model that answers questions about pictures, always with its likeliest words.

    Args:
        name: Hub id, or folder of a saved model.
        revision: Branch, tag or commit on the hub; None for the default.

    Raises:
        ModelError: If it is not there, or not a model that reads pictures and writes text.
    """

    def __init__(self, name: str, revision: str | None = None) -> None:
        super().__init__()
        from transformers import AutoConfig
        from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES as KINDS

        self.name, self._folder = name, Path(name).expanduser()
        self._from: dict[str, Any] = {"revision": revision} if revision else {}
        with self._loading():
            self._config: Any = AutoConfig.from_pretrained(self._place, **self._from)
        if self._config.model_type not in KINDS:
            raise ModelError(
                f"model '{name}' is of type '{self._config.model_type}', which does not put pictures into words; "
                f"choose an image-text-to-text model, {_KINDS}"
            )
        self.identity = self._identify()
        self._limit: int | None = None

    def load(self, dtype: torch.dtype) -> None:
        """Read processor and weights, safetensors only.

        Raises:
            ModelError: If they are not there or do not belong together.
        """
        from transformers import AutoModelForImageTextToText, AutoProcessor

        with self._loading():
            self._processor: Any = AutoProcessor.from_pretrained(self._place, **self._from)
            if not hasattr(self._processor, "image_processor"):
                raise ModelError(
                    f"model '{self.name}' has no processor for pictures; choose one that was saved with its processor"
                )
            self._model: Any = AutoModelForImageTextToText.from_pretrained(
                self._place, dtype=dtype, use_safetensors=True, **self._from
            ).eval()
        tokenizer = self._processor.tokenizer
        # A batch is written on from its right end, so shorter questions are filled up on the left.
        tokenizer.padding_side = "left"
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token

    def answer(self, questions: Sequence[Question], length: int) -> list[str]:
        """Answers to some questions, asked together, or in ever smaller parts while memory runs out.

        Args:
            questions: The questions.
            length: Most tokens of an answer.

        Raises:
            ModelError: If even one question at a time does not fit into memory, or the model cannot take it.
        """
        done: list[str] = []
        while len(done) < len(questions):
            part = questions[len(done) : len(done) + (self._limit or len(questions))]
            answers = self._answer_if_it_fits(part, length)
            if answers is None:
                if len(part) == 1:
                    raise ModelError(
                        f"model '{self.name}' runs out of memory on a single chip; choose a smaller model, precision "
                        f"bfloat16, fewer max_new_tokens (now {length}), or a device with more memory"
                    )
                self._limit = len(part) // 2
                continue
            done += answers
        return done

    def _answer_if_it_fits(self, questions: Sequence[Question], length: int) -> list[str] | None:
        """Answers, or None if memory ran out."""
        try:
            return self.answer_at_once(questions, length)
        except (RuntimeError, ValueError, MemoryError) as error:
            if not _out_of_memory(error):
                raise ModelError(f"model '{self.name}' cannot describe a chip: {_first_line(error)}") from error
        # Only now, with the failed attempt's frames gone, is there something to give back.
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return None

    @torch.inference_mode()
    def answer_at_once(self, questions: Sequence[Question], length: int) -> list[str]:
        """Answers to some questions in one batch; raises what the model raises."""
        from PIL import Image

        texts = [self._text(question) for question in questions]
        pictures = [[Image.fromarray(picture) for picture in question.pictures] for question in questions]
        bos = self._processor.tokenizer.bos_token
        # Chat templates may write the token that begins a text; it must not come twice.
        begun = {"add_special_tokens": False} if bos and all(text.startswith(bos) for text in texts) else {}
        inputs = self._processor(
            images=pictures if any(pictures) else None, text=texts, padding=True, return_tensors="pt", **begun
        ).to(self._model.device, self._model.dtype)
        written = self._model.generate(
            **inputs,
            max_new_tokens=length,
            do_sample=False,
            num_beams=1,
            temperature=None,
            top_p=None,
            top_k=None,
            pad_token_id=self._processor.tokenizer.pad_token_id,
        )
        asked = inputs["input_ids"]
        # Most models repeat the question before they answer; encoder-decoders do not.
        if torch.equal(written[:, : asked.shape[1]], asked):
            written = written[:, asked.shape[1] :]
        answers: list[str] = self._processor.batch_decode(written, skip_special_tokens=True)
        return answers

    def _text(self, question: Question) -> str:
        """The question as the model wants it: in its chat template, or plain behind the pictures' tokens."""
        count = len(question.pictures)
        if getattr(self._processor, "chat_template", None):
            content = [*({"type": "image"} for _ in range(count)), {"type": "text", "text": question.text}]
            chat = [{"role": "user", "content": content}]
            return str(self._processor.apply_chat_template(chat, add_generation_prompt=True, tokenize=False))
        if count > 1 and self._config.model_type in _ONE_PICTURE:
            raise ModelError(f"model '{self.name}' takes one picture at a time; leave out false_colour")
        token = getattr(self._processor, "image_token", None)
        if count == 0 or token is None or self._config.model_type in _PLACES_PICTURES:
            return question.text
        return f"{token}\n" * count + question.text

    @property
    def _place(self) -> str:
        return str(self._folder) if self._folder.is_dir() else self.name

    def _identify(self) -> str:
        """What names the model's weights beyond doubt: hub id and commit, or a digest of the folder's files."""
        commit = getattr(self._config, "_commit_hash", None)
        if not self._folder.is_dir():
            return f"{self.name}@{commit or self._from.get('revision', 'unknown')}"
        found = hashlib.sha256()
        for path in sorted(self._folder.glob("*")):
            if path.suffix in (".safetensors", ".json", ".jinja", ".txt", ".model"):
                found.update(f"{path.name} {file_digest(path)}\n".encode())
        return f"sha256:{found.hexdigest()}"

    @contextmanager
    def _loading(self) -> Iterator[None]:
        """Turn what transformers raises into one message that names the model and the way out."""
        try:
            yield
        except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
            reason = _first_line(error)
            if self._folder.is_dir():
                raise ModelError(
                    f"folder {self._folder} holds no vision-language model that can be loaded ({reason}); "
                    f"save model and processor there with save_pretrained, weights as safetensors"
                ) from error
            raise ModelError(
                f"model '{self.name}' is no folder here and cannot be had from the hub ({reason}); check the name, or, "
                f"without network, run 'hf download {self.name} --local-dir FOLDER' on a machine that has it, "
                "copy the folder, and give its path as option model"
            ) from error


def _out_of_memory(error: Exception) -> bool:
    """Whether an error says that memory ran out, in the words of CUDA, MPS or the CPU's allocator."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error).lower()
    return "out of memory" in text or "can't allocate memory" in text or "not enough memory" in text


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
