"""What other trainers call the methods that kinds of stages carry out, and what stands in for those ft has no kind for.

An unknown `kind:` is answered with what it means, and `ft import` writes that. A new kind takes its name out of the
stand-ins.
"""

from __future__ import annotations

from collections.abc import Mapping

from ft.recipe.kind import StandIn

METHODS: Mapping[str, str] = {
    **dict.fromkeys(("pt", "cpt", "pretrain"), "pretrain"),
    **dict.fromkeys(("rm", "reward", "reward_model"), "reward"),
    **dict.fromkeys(("dpo", "ipo"), "dpo"),
    **{name: name for name in ("sft", "ppo", "rloo", "grpo", "kto", "orpo", "simpo", "cpo")},
}
"""Word of a peer → the kind, there or not."""

_REFERENCE = "it compares with the model it starts from"
_BOTH = f"it too learns the chosen answers and to prefer them, but {_REFERENCE}"

LIKE_DPO: Mapping[str, StandIn] = {
    "orpo": StandIn(_BOTH, {"loss_type": ["sigmoid", "sft"]}, ("beta", "orpo_alpha")),
    "cpo": StandIn(_BOTH, {"loss_type": ["sigmoid", "sft"]}, ("cpo_alpha",)),
    "simpo": StandIn(
        f"it too weighs answers by their length, but {_REFERENCE} and has no target margin",
        {"loss_type": ["sigmoid_norm"]},
        ("simpo_gamma", "cpo_alpha", "loss_type", "gamma_beta_ratio"),
    ),
    "kto": StandIn(
        "it learns from pairs of answers to one prompt; make pairs of the rows that are labelled true and false",
        without=("loss_type", "kto_chosen_weight", "kto_rejected_weight", "desirable_weight", "undesirable_weight"),
    ),
}
"""Methods that learn from preferences without a reward model, as DPO does."""
