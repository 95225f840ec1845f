"""What everything stands on; it knows nothing of images or networks."""
