"""Inputs whose structure is changed: containers, weights, configurations, command lines.

``python -m fuzz --seconds 60 --seed 1`` in ``tests``, or ``make fuzz``. A generator takes a sound
input apart, changes parts (drops, doubles, swaps, cuts, lies about sizes) and puts it together with
right lengths and checksums, so that what lies behind the first check is reached. The oracle knows
two good ends: a result that comes back equal when it is written and read again, or one sentence.
"""
