"""The model card: what a stranger must know to use the model, and to judge it. Made from the run; nothing is claimed
that was not measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from ft.export.trained_model import TrainedModel, public_path
from ft.hub import local_path
from ft.models.processor import family_at
from ft.report.numbers import summary
from ft.result import FOLDER_NAME, Result
from ft.stages import STAGES

NOT_STATED = "not stated"
PART = ("split", "revision", "rows", "weight", "share")  # what a source says of how much of it is taken


def card(result: TrainedModel, record: Mapping[str, Any], license: str | None) -> str:
    """README.md: front matter the Hub reads, then the sections. `made` is what export.json says."""
    body = [
        *_opening(result, record),
        *_loading(result, record),
        *_stages(result),
        *_data(result),
        *_numbers(result),
        *_exported(record),
        *_limits(result, license),
        *_versions(result),
    ]
    return f"---\n{_front(result, record, license)}---\n\n" + "\n".join(body).rstrip() + "\n"


def _front(result: TrainedModel, record: Mapping[str, Any], license: str | None) -> str:
    adapter = record["form"] == "adapter"
    values: dict[str, Any] = {
        "library_name": "peft" if adapter else "transformers",
        "pipeline_tag": "text-classification" if result.scores else family_at(None, result.folder).pipeline_tag,
        "tags": ["ft", *dict.fromkeys(stage.kind for stage in result.chain)],
    }
    if license:
        values["license"] = license
    if result.hub_base:
        values |= {"base_model": result.hub_base, "base_model_relation": "adapter" if adapter else "finetune"}
    sources = [source["path"] for stage in result.chain for source in stage.job["data"]]
    sets = [path for path in sources if local_path(path) is None]
    if sets:
        values["datasets"] = [*dict.fromkeys(sets)]
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


def _opening(result: TrainedModel, record: Mapping[str, Any]) -> Iterator[str]:
    what = "A reward model: it gives a conversation's last answer one number" if result.scores else "A language model"
    how = {
        "merged": "adapter merged into its base",
        "whole": "whole weights",
        "adapter": "the adapter alone; it needs its base",
    }[record["form"]]
    steps = "one stage" if len(result.chain) == 1 else f"{len(result.chain)} stages"
    yield f"# {result.recipe} · {result.stage}"
    yield ""
    yield f"{what}, made by `ft` from **{result.base}** in {steps} ({how}, {record['dtype']})."
    yield ""


def _loading(result: TrainedModel, record: Mapping[str, Any]) -> Iterator[str]:
    name = "FOLDER_OR_ID"
    family = family_at(None, result.folder)
    auto = family.auto_name(bool(result.scores))
    yield from ("## Use", "", "```python", f"from transformers import AutoTokenizer, {auto}", "")
    if record["form"] == "adapter":
        yield "from peft import PeftModel"
        words = [f'"{result.hub_base or "THE_BASE"}"', f'dtype="{record["dtype"]}"', *["num_labels=1"] * result.scores]
        if record["quantization"]:
            yield "from transformers import BitsAndBytesConfig"
            yield ""
            yield f"trained_on = {record['quantization']}"
            words.append("quantization_config=BitsAndBytesConfig(**trained_on)")
        yield f"base = {auto}.from_pretrained({', '.join(words)})"
        yield f'model = PeftModel.from_pretrained(base, "{name}")'
    else:
        yield f'model = {auto}.from_pretrained("{name}", dtype="{record["dtype"]}")'
    yield f'tokenizer = AutoTokenizer.from_pretrained("{name}")'
    if result.scores:
        yield 'ids = tokenizer.apply_chat_template([{"role": "user", "content": "…"}, {"role": "assistant", '
        yield '    "content": "…"}], return_tensors="pt", return_dict=True)'
        yield "score = model(**ids).logits[0, 0]"
    elif record["template"]:
        yield 'ids = tokenizer.apply_chat_template([{"role": "user", "content": "Hello!"}], return_tensors="pt",'
        yield "    add_generation_prompt=True, return_dict=True)"
        yield "answer = model.generate(**ids, max_new_tokens=128)"
    yield from ("```", "")
    if record["template"]:
        yield f"The chat template is the one of training (`chat_template.jinja`, SHA-256 `{record['template'][:16]}…`)."
    else:
        yield "It has no chat template: it continues text."
    yield from ("", family.needs) if family.needs else ()
    yield ""


def _stages(result: TrainedModel) -> Iterator[str]:
    yield from ("## How it was made", "")
    first = result.chain[0]
    if first.job.get("init"):
        yield f"Earlier stages are no longer on disk; `{first.stage}` started from result `{first.key.get('init')}`."
        yield ""
    for number, stage in enumerate(result.chain, 1):
        yield f"### {number}. {stage.stage} ({stage.kind})"
        yield ""
        seconds, device = stage.done.get("seconds"), stage.done.get("device")
        yield f"Result `{stage.fingerprint}`, seed {stage.job['seed']}, {seconds} s on {device}."
        yield f"{_summary(stage)}."
        yield ""
        blocks = {
            name: {key: value for key, value in block.items() if STAGES[stage.kind].affects_result(name, key)}
            for name, block in stage.blocks.items()
            if block
        }
        if blocks:
            yield from ("```yaml", yaml.safe_dump(blocks, sort_keys=False, allow_unicode=True).rstrip(), "```", "")


def _summary(result: Result) -> str:
    return summary(result.numbers, STAGES[result.kind].display.summary) or "no numbers"


def _data(result: TrainedModel) -> Iterator[str]:
    yield from ("## Data", "", "| stage | source | part | licence |", "| --- | --- | --- | --- |")
    for stage in result.chain:
        for source in stage.job["data"]:
            path = source["path"]
            on_hub = local_path(path) is None
            name = f"[{path}](https://huggingface.co/datasets/{path})" if on_hub else f"`{public_data_path(path)}`"
            part = ", ".join(
                f"{k} {source[k]}" for k in ("split", "revision", "rows", "weight", "share") if k in source
            )
            yield f"| {stage.stage} | {name} | {part or 'all'} | {source.get('license', NOT_STATED)} |"
    yield ""


def public_data_path(path: str) -> str:
    """A data file without the folders of this machine; rows of another stage by that stage's folder."""
    parts = path.split("/")
    made_here = len(parts) > 1 and FOLDER_NAME.fullmatch(parts[-2])
    return "/".join(parts[-2:]) if made_here else public_path(path)


def _numbers(result: TrainedModel) -> Iterator[str]:
    yield from ("## What was measured", "")
    finished = [one for one in result.evaluations if one.state == "done"]
    if finished:
        yield from ("| evaluation | kind | result |", "| --- | --- | --- |")
        for one in finished:
            yield f"| {one.stage} | {one.kind} | {_summary(one) or 'no numbers'} |"
    else:
        yield "Nothing was measured behind this stage."
    yield ""
    failed = list(result.failures())
    if failed:
        yield from ("What failed, or was left out:", "", *(f"- {line}" for line in failed), "")


def _exported(record: Mapping[str, Any]) -> Iterator[str]:
    compared = record.get("compared")
    if not compared:
        return
    yield from ("## This copy and the trained model", "", record["said"], "")
    for note in record["notes"]:
        yield from (note, "")


def _limits(result: TrainedModel, license: str | None) -> Iterator[str]:
    yield from ("## Limits", "")
    yield "It was trained on the data above and measured as told above; nothing else was tried. It may state what is"
    yield "false, and repeat what its data and its base hold. It is meant for research and for the languages and"
    yield "subjects of its data."
    yield ""
    base = f"**{result.base}**" if result.hub_base else "the base"
    yield f"Licence: {license or NOT_STATED}. That of {base} and of the data above binds too."
    yield ""


def _versions(result: TrainedModel) -> Iterator[str]:
    versions = result.done.get("versions", {})
    yield from ("## Versions", "", ", ".join(f"{name} {version}" for name, version in versions.items()))
