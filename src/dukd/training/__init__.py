"""Training: an experiment, its state, a step, the loop."""
