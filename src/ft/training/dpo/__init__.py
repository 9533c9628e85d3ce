"""Preference training: the reference, and prompts that two answers share."""
