"""Training: arguments and recipes, masked batches of pictures and captions, the trainer, what a run records."""
