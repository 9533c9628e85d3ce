"""Answers from models."""
