"""The systems that are evaluated: MMET models, baselines and other encoders; each embeds or scores."""
