"""dukd: distil super-resolution networks."""
