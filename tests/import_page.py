"""Writes docs/import.md: one config of each peer with the recipe that `ft import` makes of it, and what differs.

`python tests/import_page.py` writes it; a test refuses a page that is not what this would write.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ft.recipe import Recipe, Verdicts, check_tree
from ft.recipe.yaml import Block
from ft.stages import STAGES
from ft.tools.importing.chain import import_recipe
from ft.tools.importing.peers import PEERS

ROOT = Path(__file__).parents[1]
PEER_FILES = ROOT / "tests" / "data" / "peers"
PAGE = ROOT / "docs" / "import.md"
SHOWN = {
    "alignment-handbook": ("zephyr-7b-beta/sft/config_qlora.yaml", "zephyr-7b-beta/dpo/config_qlora.yaml"),
    "axolotl": ("llama2-qlora.yml",),
    "llama-factory": ("llama3_lora_dpo.yaml",),
    "torchtune": ("llama3_1_8B_lora.yaml",),
    "ms-swift": ("qlora.sh",),
}
HEAD = """\
# Configs of other trainers

```
ft import THEIRS.yaml --to recipes/mine.yaml
ft import sft.yaml reward.yaml dpo.yaml --to recipes/mine.yaml    # one chain
ft import train.sh                                                # flags of a command; the recipe is printed
```

reads configs of TRL and alignment-handbook, axolotl, LLaMA-Factory, torchtune and ms-swift (flags in a shell script, or
a file of arguments). Which trainer a file is for is told from its keys; `ft plan THEIRS.yaml` says it in one line.
Nothing is downloaded or opened on the Hub.

- **Every key is accounted for.** It is placed in the block that owns it, by the table that `ft plan` uses for old
  names (`src/ft/recipe/aliases.py`); or it stands as a comment with its line and the reason it has no place; or, where
  nothing is known of it, it is named on the terminal too. What the trainer takes where a key is missing is written out,
  when ft would take something else.
- **Several files are one chain**: documents, SFT, reward model, pairs, then what learns from rewards, each from the one
  before (`init: $sft`). Files that start from another's `output_dir` need nothing more.
- **What is wrong is refused**, all at once, at the line of the config; nothing is written then.
- **What differs is said at the stage**: the tables below hold all of it.
- Paths are looked for from where you stand, and from the folder of the config and those above it.

Data sets are read in the format that the config names (`type: alpaca`, `dataset_info.json`, `conversation_style`, …).
Of well-known data sets of the Hub the format is known; of others ft tells it from the first row.

Methods without a kind of their name become one of a kind's losses, or the kind that is nearest by meaning, and the
recipe and the terminal say so. An unknown `kind:` in a recipe is answered with the same table:

| method | becomes | |
|---|---|---|
"""


def page() -> str:
    """The page's text."""
    return "\n".join([HEAD.rstrip("\n"), *_stand_ins(), "", *_differences(), *_examples()]).rstrip() + "\n"


def _stand_ins() -> Iterator[str]:
    for name, kind in STAGES.items():
        for method, stand_in in kind.stands_in_for.items():
            if stand_in.why or stand_in.train:  # else another word for the kind
                values = f", {stand_in.values_text}" if stand_in.train else ""
                yield f"| {method} | `kind: {name}`{values} | {stand_in.why or 'the same'} |"


def _differences() -> Iterator[str]:
    yield "## What other trainers do differently"
    for peer in PEERS:
        yield from ("", f"### {peer.name}", "")
        yield from (f"- {text}" for text in peer.differences.values())
    yield ""


def _examples() -> Iterator[str]:
    yield from (
        "## One of each",
        "",
        "The configs stand in `tests/data/peers/`, where every file is imported and planned.",
    )
    for peer, names in SHOWN.items():
        files = [PEER_FILES / peer / name for name in names]
        yield from ("", f"### {peer}", "")
        for file in files:
            yield from (f"`{file.relative_to(PEER_FILES)}`:", "", "```" + ("sh" if file.suffix == ".sh" else "yaml"))
            yield from (file.read_text(encoding="utf-8").rstrip(), "```", "")
        yield from ("becomes", "", "```yaml", import_recipe(files, None, check).text.rstrip(), "```")


def check(tree: Block, path: Path) -> Recipe:
    return check_tree(tree, path, STAGES, Verdicts(None))


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
