"""[cli] `python -m agent` is `nightsafe`."""

from agent.cli import main

if __name__ == "__main__":
    main()
