"""The hot path: one training loop, one evaluation loop, the update rules."""
