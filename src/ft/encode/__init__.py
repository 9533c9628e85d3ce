"""Rows as a model takes them: rendered, masked, cut to length, as token ids."""
