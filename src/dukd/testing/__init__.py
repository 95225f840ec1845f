"""What every part promises, as checks for anybody's own, and how fast it is."""

from dukd.testing.cases import PAIRS, Case, Pair, Refused
from dukd.testing.degradations import check_degradation
from dukd.testing.methods import (
    PROMISES,
    Promise,
    check_method,
    serves,
    teaches_the_student_and_not_the_teacher,
)
from dukd.testing.metrics import check_metric
from dukd.testing.networks import check_network
from dukd.testing.runtimes import check_runtime
from dukd.testing.teachers import check_teacher
from dukd.testing.upcyclings import check_upcycling

__all__ = [
    "PAIRS",
    "PROMISES",
    "Case",
    "Pair",
    "Promise",
    "Refused",
    "check_degradation",
    "check_method",
    "check_metric",
    "check_network",
    "check_runtime",
    "check_teacher",
    "check_upcycling",
    "serves",
    "teaches_the_student_and_not_the_teacher",
]
