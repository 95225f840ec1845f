"""Methods of distillation: one file each."""

from dukd.methods._method import Losses, Method
from dukd.methods.combined import Combined
from dukd.methods.dukd import DUKD
from dukd.methods.logits import Logits
from dukd.methods.released import ReleasedDUKD
from dukd.methods.scratch import Scratch

__all__ = ["DUKD", "Combined", "Logits", "Losses", "Method", "ReleasedDUKD", "Scratch"]
