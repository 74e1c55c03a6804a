"""`python -m kgfast` is `kgfast`."""

from kgfast.cli.main import main

main()
