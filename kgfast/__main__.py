"""`python -m kgfast` is `kgfast`."""

from kgfast.cli import main

main()
