"""The two things that answers are rated by: helpfulness and safety (arXiv:2307.09288, section 3.2.1).

The column `axis` of a pair or a prompt holds one of these names; a stage's `inputs:` name reward models by them.
"""

from __future__ import annotations

HELPFUL, SAFETY = "helpful", "safety"
AXES = (HELPFUL, SAFETY)

# Probability of "safe" below which an answer counts as unsafe: the paper's, for R_c (section 3.2.3). Of what fell below
# it 89 % was unsafe, and that was 55 % of all that is unsafe.
SAFETY_THRESHOLD = 0.15
