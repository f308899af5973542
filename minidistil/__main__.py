"""Run the command line with `python -m minidistil`."""

from .cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())
