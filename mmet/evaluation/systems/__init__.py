"""What is evaluated: our models, baselines and encoders of others, each as a system that embeds or scores."""
