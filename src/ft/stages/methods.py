"""What the field calls the methods that kinds of stages carry out, and what stands in for those ft has no kind for.

An unknown `kind:` is answered with what it means, and `ft import` writes that. Names are written small, with hyphens. A
new kind takes its name out of the stand-ins.
"""

from __future__ import annotations

from collections.abc import Mapping

from ft.recipe.kind import StandIn

_SAME = StandIn()


def _loss(name: str) -> StandIn:
    """A method that is one of the losses of a kind."""
    return StandIn(train={"loss_type": [name]})


def _same(*names: str) -> dict[str, StandIn]:
    return dict.fromkeys(names, _SAME)


_BOTH = "it too learns the chosen answers and to prefer them, but it compares with the model it starts from"
_PRUNED = "it keeps the best of several answers, and a stage of kind `sft` behind it trains on them"
_DISTILLED = "it draws answers of a teacher (`model:` of the stage), and a stage of kind `sft` behind it trains on them"
_LABELS = "it too learns from answers that are labelled one by one, by another loss"

STAND_INS: Mapping[str, Mapping[str, StandIn]] = {
    "pretrain": _same("pt", "cpt", "clm", "lm", "pretraining", "continued-pretraining", "language-modeling"),
    "sft": _same("instruct", "instruction-tuning", "finetune", "fine-tune", "finetuning", "lora", "qlora", "chat"),
    "reward": {
        **_same("rm", "reward-model", "reward-modeling", "bradley-terry"),
        "prm": StandIn("it scores whole answers, and no steps within them"),
    },
    "dpo": {
        **{name: _loss(name) for name in ("ipo", "hinge", "robust", "discopop", "aot")},
        **{name: _loss(loss) for name, loss in (("slic", "hinge"), ("rdpo", "robust"), ("sppo", "sppo_hard"))},
        **{name: _loss(loss) for name, loss in (("exo", "exo_pair"), ("nca", "nca_pair"), ("apo", "apo_zero"))},
        "wpo": StandIn(train={"use_weighting": True}),
        "ld-dpo": StandIn(train={"ld_alpha": 0.5}),
        "rpo": StandIn(train={"loss_type": ["sigmoid", "sft"]}),
        "cpo": StandIn(_BOTH, {"loss_type": ["sigmoid", "sft"]}, ("cpo_alpha",)),
        "online-dpo": StandIn("let a stage of kind `sample` draw and rank answers in `rounds:` before it"),
    },
    "kto": {
        "bco": StandIn(_LABELS, without=("loss_type",)),
        "apo-zero-unpaired": StandIn(train={"loss_type": "apo_zero_unpaired"}),
    },
    "simpo": {"alphapo": StandIn("it is this loss where `alpha` is not 0")},
    "ppo": _same("rlhf", "rl"),
    "rloo": _same("reinforce", "reinforce-leave-one-out"),
    "grpo": {
        "dapo": StandIn(train={"loss_type": "dapo"}),
        "dr-grpo": StandIn(train={"loss_type": "dr_grpo"}),
        "gspo": StandIn(train={"importance_sampling_level": "sequence"}),
        "rlvr": StandIn("write functions that judge answers under `reward: {rewards: …}`"),
    },
    "sample": {
        **_same("rejection-sampling", "best-of-n", "bon"),
        **dict.fromkeys(("rft", "raft", "rest", "star"), StandIn(_PRUNED)),
        **dict.fromkeys(("distill", "distillation", "gkd"), StandIn(_DISTILLED)),
    },
    "evaluate": _same("eval", "evaluation", "generate", "predict"),
    "judge": _same("llm-judge", "alpaca-eval", "arena", "win-rate"),
    "harness": _same("lm-eval", "lm-eval-harness", "lm-evaluation-harness", "benchmark"),
    "report-card": _same("reward-bench", "rewardbench"),
    "gatt": _same("ghost-attention"),
}
"""Kind → the names it answers to: of the same method, of one of its losses, or of what it is nearest to by meaning."""
