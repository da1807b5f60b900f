"""Training: arguments and recipes, masked batches of pictures and captions, the trainer, records of a run."""
