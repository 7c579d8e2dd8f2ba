"""`python -m cxr_dist`: the same as the console script."""

from cxr_dist.cli import main

if __name__ == "__main__":
    main()
