"""Files of weights: read safely, recognized, written."""
