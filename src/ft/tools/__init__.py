"""Commands beside the chain: chat, new, show, stats, judge."""
