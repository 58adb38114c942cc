"""`python -m astarpo` is `astarpo`."""

from astarpo.cli import main

if __name__ == "__main__":
    main()
