"""Held-out pictures and captions that find each other: R@1, 5 and 10 both ways, by contrast and then by matching."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import mean
from typing import Any

from ft import artifacts
from ft.encode.pictures import reader_of
from ft.errors import fail
from ft.evaluation.statistics import of_shares
from ft.files import write_json
from ft.models.device import has_gpu
from ft.recipe.job import Job
from ft.training.captioned import read_captions


@dataclass(frozen=True)
class RetrievalOptions:
    """How candidates are compared: a recipe's `retrieval:` block.

    rerank      how many of the nearest by contrast are put in order again by matching (the paper: 128); 0: none
    batch_size  pairs compared side by side
    """

    rerank: int = 128
    batch_size: int = 256

    def __post_init__(self) -> None:
        if self.rerank < 0 or self.batch_size < 1:
            raise ValueError("rerank must not be below 0, and batch_size at least 1")


def make(job: Job) -> dict[str, Any]:
    """Write metrics.json: `text_r1` is how many pictures found a caption of theirs first, `image_r1` the other way,
    each also `…_contrast` without matching, with 95 % intervals; `chance` is what guessing finds first."""
    from ft.evaluation.retrieval import order_of, recalls

    options = RetrievalOptions(**job.block("retrieval"))
    captions = read_captions(job, job.data)
    pictures = [picture for _, picture, _ in captions]
    texts = list(dict.fromkeys(text for _, _, text in captions))
    comparer = _Comparer(job, pictures, texts, options.batch_size)
    number_of = {text: number for number, text in enumerate(texts)}
    right = comparer.right([number_of[text] for _, _, text in captions])
    scores = comparer.contrast()
    numbers: dict[str, Any] = {"pictures": len(pictures), "captions": len(texts), "chance": 1 / len(texts)}
    for way, table, matches in (("text", scores, right), ("image", scores.T, right.T)):
        rerank = comparer.rerank(way)
        orders = {"_contrast": order_of(table), "": order_of(table, min(options.rerank, table.shape[1]), rerank)}
        for name, order in orders.items():
            for first, hits in recalls(order, matches).items():
                key = f"{way}_r{first}{name}"
                numbers[key] = mean(hits)
                numbers[f"{key}_low"], numbers[f"{key}_high"] = of_shares(hits, job.seed)
    write_json(job.folder / artifacts.NUMBERS, numbers)
    return numbers


class _Comparer:
    """Pictures and captions as a Q-Former compares them."""

    def __init__(self, job: Job, pictures: list[str], texts: list[str], batch_size: int):
        import torch
        from transformers import Blip2ForImageTextRetrieval

        from ft.models.batching import pad
        from ft.models.processor import tokenizer_of

        if job.init is None:
            raise fail(job.where, "there is no Q-Former", "Write `init: $stage`, a stage of kind `qformer`.")
        self.device = torch.device("cuda" if has_gpu() else "cpu")
        model: Any = Blip2ForImageTextRetrieval.from_pretrained(str(job.init), use_safetensors=True)
        self.model, self.batch_size = model.eval().to(self.device), batch_size
        tokenizer = tokenizer_of(None, job.init)
        rows = [[tokenizer.bos_token_id, *ids, tokenizer.eos_token_id] for ids in _ids(tokenizer, texts)]
        ids, own = pad(rows, "right", self.device, tokenizer.pad_token_id)
        self.ids, self.mask = ids, own.long()
        reader = reader_of(tokenizer)
        assert reader is not None
        self.pixels = reader.pixels(pictures)

    def right(self, numbers: list[int]) -> Any:
        import torch

        return torch.nn.functional.one_hot(torch.tensor(numbers), len(self.ids)).bool()

    def contrast(self) -> Any:
        """(N, C) cosines, by the model's own forward pass."""
        import torch

        rows = []
        with torch.no_grad():
            for pixels in self.pixels.split(self.batch_size):
                output = self.model(pixel_values=pixels.to(self.device), input_ids=self.ids, attention_mask=self.mask)
                rows.append(output.logits_per_image.float().cpu())
        return torch.cat(rows)

    def rerank(self, way: str) -> Any:
        """The probability that a picture and a caption match, for candidates of either way."""
        import torch

        def scores(candidates: Any, before: Any) -> Any:
            queries = torch.arange(len(candidates))[:, None].expand_as(candidates)
            first, second = queries.flatten(), candidates.flatten()
            pictures, texts = (first, second) if way == "text" else (second, first)
            found = []
            with torch.no_grad():
                for picture, text in zip(pictures.split(self.batch_size), texts.split(self.batch_size), strict=True):
                    text = text.to(self.device)
                    output = self.model(
                        pixel_values=self.pixels[picture].to(self.device),
                        input_ids=self.ids[text],
                        attention_mask=self.mask[text],
                        use_image_text_matching_head=True,
                    )
                    found.append(output.logits_per_image.float().softmax(1)[:, 1].cpu())
            return torch.cat(found).view(candidates.shape)

        return scores


def _ids(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    ids: list[list[int]] = tokenizer(texts, add_special_tokens=False)["input_ids"]
    return ids
