"""`python -m codecctl`: the command line."""

from codecctl.cli.main import main

main()
