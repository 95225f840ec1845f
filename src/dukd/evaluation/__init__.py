"""How good, and how fast, a network is."""

from dukd.evaluation import niqe as niqe  # its metrics are found by name
