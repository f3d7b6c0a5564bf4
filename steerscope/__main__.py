"""`python -m steerscope`: the command line where no `steerscope` is on the path."""

from steerscope.cli import main

main()
