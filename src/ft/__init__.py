"""ft: declarative recipes that turn a base model into a chat model, stage by stage."""

__version__ = "0.1.0"
