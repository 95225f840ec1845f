"""Networks in few bits: quantizers, where they stand, how they are set, and what integers give."""
