"""Ghost Attention (arXiv:2307.09288, section 3.3): instruction banks, rows, checks."""
