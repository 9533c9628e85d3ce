"""Writes ppo_trl_1_12.json: what the PPO of TRL 1.12.0, the last release that had one, computes from a fixed batch.

Nothing of it is copied: the lines are taken out of the installed ppo_trainer.py and run. To write the file again:

    pip download trl==1.12.0 --no-deps -d DIR && unzip -d DIR DIR/trl-1.12.0-*.whl
    PYTHONPATH=DIR python tests/golden/ppo_trl_1_12.py

Where the definitions differ, nothing is recorded: TRL puts the score one token behind the end token, and its critic
learns at that place too. Here one mask serves for both.
"""

from __future__ import annotations

import inspect
import json
import textwrap
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import trl
from trl.experimental.ppo import ppo_trainer

ARGS = {"gamma": 0.99, "lam": 0.95, "cliprange": 0.2, "cliprange_value": 0.2, "kl_coef": 0.05}


def lines(first: str, last: str) -> str:
    """The lines of TRL's `train` from the one that begins with `first` to the one before `last`."""
    source = inspect.getsource(ppo_trainer.PPOTrainer.train).splitlines()
    start = next(n for n, line in enumerate(source) if line.strip().startswith(first))
    end = next(n for n, line in enumerate(source) if n > start and line.strip().startswith(last))
    return textwrap.dedent("\n".join(source[start:end]))


def run(code: str, **names: Any) -> dict[str, Any]:
    names |= {name: getattr(ppo_trainer, name) for name in ("masked_mean", "masked_whiten")}
    exec(code, {"torch": torch, **names}, names)
    return names


def batch() -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(7)
    names = ("rewards", "values", "logps", "reference", "new_logps", "new_values")
    found = {name: torch.randn(5, 6, generator=draw) for name in names}
    found["new_logps"] = found["logps"] + 0.3 * found["new_logps"]
    found["reference"] = found["logps"] + 0.3 * found["reference"]
    found["mask"] = torch.arange(6) < torch.tensor([6, 4, 1, 6, 2])[:, None]
    for name in names:
        found[name] = found[name] * found["mask"]
    return found


def main() -> None:
    assert trl.__version__ == "1.12.0", trl.__version__
    given, args = batch(), SimpleNamespace(**ARGS)
    padding = ~given["mask"]
    gae = run(
        lines("lastgaelam = 0", "empty_cache()"),
        args=args,
        rewards=given["rewards"],
        values=given["values"],
        responses=given["rewards"],
        padding_mask=padding,
    )
    raw = run(
        lines("lastgaelam = 0", "advantages = masked_whiten"),
        args=args,
        rewards=given["rewards"],
        values=given["values"],
        responses=given["rewards"],
    )
    losses = run(
        lines("vpredclipped = torch.clamp(", "loss = pg_loss"),
        args=args,
        vpred=given["new_values"],
        mb_values=given["values"],
        mb_return=raw["returns"],
        padding_mask=padding,
        padding_mask_p1=padding,
        micro_batch_inds=slice(None),
        new_logprobs=given["new_logps"],
        mb_logprobs=given["logps"],
        mb_advantage=gae["advantages"],
    )
    fractions = run(lines("pg_clipfrac = masked_mean(", "prob_dist ="), **{**losses, "padding_mask": padding})
    logr = given["reference"] - given["logps"]
    penalties = {
        kind: run(lines("kl = -logr", "rewards ="), args=SimpleNamespace(**ARGS, kl_estimator=kind), logr=logr)[
            "non_score_reward"
        ]
        for kind in ("k1", "k3")
    }
    whitened = ppo_trainer.masked_whiten(given["rewards"], mask=given["mask"], shift_mean=False)
    found = {
        "advantages": raw["advantages"],
        "returns": raw["returns"],
        "advantages whitened": gae["advantages"],
        "rewards whitened": whitened.masked_fill(padding, 0),
        "policy loss": losses["pg_loss"],
        "value loss": losses["vf_loss"],
        "value clip fraction": losses["vf_clipfrac"],
        "policy clip fraction": fractions["pg_clipfrac"],
        **{f"penalty {kind}": value for kind, value in penalties.items()},
    }
    told = {"trl": trl.__version__, "torch": torch.__version__, "args": ARGS}
    tables = {"given": given, "found": found}
    told |= {name: {key: value.tolist() for key, value in table.items()} for name, table in tables.items()}
    Path(__file__).with_suffix(".json").write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
