"""``python -m dukd`` is ``dukd``."""

from dukd.cli import main

main()
