"""An image encoder, a Q-Former and a language model as one model, before they have learnt to speak of what they see."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from ft.errors import fail
from ft.models.load import load, share
from ft.recipe.job import Job

TAG = "<image>"
TEXT_SIDE = ("intermediate.", "output.")  # a Q-Former layer's feed-forward of text, which only its first stage needs


def make(job: Job) -> dict[str, Any]:
    """Leave what `Blip2ForConditionalGeneration` opens: everything as it was, but the projection between Q-Former and
    language model, which is new. Same seed, same bytes."""
    from transformers import (
        AddedToken,
        Blip2Config,
        Blip2ForConditionalGeneration,
        Blip2ForImageTextRetrieval,
        Blip2Processor,
        Blip2QFormerConfig,
        BlipImageProcessorPil,
        set_seed,
    )

    from ft.models.processor import tokenizer_of

    qformer_folder, language_folder = (_input(job, name) for name in ("qformer", "language_model"))
    looked = Blip2ForImageTextRetrieval.from_pretrained(str(qformer_folder), use_safetensors=True)
    language = load(language_folder, "float32", use_cpu=True)
    tokenizer = tokenizer_of(None, language_folder, job.template)
    tokenizer.add_tokens([AddedToken(TAG, special=True)])
    if len(tokenizer) > language.get_input_embeddings().num_embeddings:
        language.resize_token_embeddings(len(tokenizer))
    qformer = cast(Blip2QFormerConfig, looked.config.qformer_config)
    qformer.use_qformer_text_input = False
    set_seed(job.seed)
    model = Blip2ForConditionalGeneration(
        Blip2Config(
            vision_config=looked.config.vision_config,
            qformer_config=qformer,
            text_config=language.config,
            num_query_tokens=looked.config.num_query_tokens,
            image_text_hidden_size=looked.config.image_text_hidden_size,
            image_token_index=tokenizer.convert_tokens_to_ids(TAG),
        )
    )
    weights = {name: value for name, value in looked.state_dict().items() if _is_looking(name)}
    weights |= {f"language_model.{name}": value for name, value in language.state_dict().items()}
    report = model.load_state_dict(weights, strict=False)
    missing = [name for name in report.missing_keys if not name.startswith("language_projection.")]
    if missing or report.unexpected_keys:
        what = f"the parts do not make one model: {', '.join([*missing, *report.unexpected_keys][:3])}"
        raise fail(job.where, what, "Name a Q-Former and a language model that this version made.")
    model.generation_config = language.generation_config
    model.save_pretrained(str(job.folder))
    reads = BlipImageProcessorPil.from_pretrained(str(qformer_folder))
    Blip2Processor(reads, tokenizer, num_query_tokens=looked.config.num_query_tokens).save_pretrained(str(job.folder))
    share(job.folder)
    return {"parameters": model.num_parameters(), "vocabulary": len(tokenizer)}


def _is_looking(name: str) -> bool:
    """Whether a parameter of a first stage's model goes on: not its heads, and not what reads captions."""
    if not name.startswith(("vision_model.", "qformer.", "query_tokens")):
        return False
    parts = name.split(".layer.")[-1].partition(".")[2]
    return not (name.startswith("qformer.encoder.layer.") and parts.startswith(TEXT_SIDE))


def _input(job: Job, name: str) -> Path:
    folder = job.inputs.get(name)
    if folder is None:
        raise fail(job.where, f"there is no {name}", f"Write `inputs: {{{name}: $stage}}`.")
    return folder
