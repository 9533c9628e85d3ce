"""A result as others take it: merged weights or an adapter, with a card, for transformers, Ollama and the Hub."""
