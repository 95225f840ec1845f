"""How good, and how fast, a network is."""

from dukd.evaluation import latex as latex  # a form of tables, found by its ending
from dukd.evaluation import looks as looks  # likewise
from dukd.evaluation import niqe as niqe  # its metrics are found by name
