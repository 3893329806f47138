"""`python -m gpucoadd` is the command `gpucoadd`."""

from .cli import main

if __name__ == "__main__":
    raise SystemExit(main())
