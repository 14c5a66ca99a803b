"""One run: prepare, learn, evaluate, seal, save."""
