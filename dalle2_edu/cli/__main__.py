"""`python -m dalle2_edu.cli`, for launchers that start a module and no command."""

from dalle2_edu.cli import main

main()
