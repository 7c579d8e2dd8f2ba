"""`python -m cxr_dist`: the same as the console script."""

from cxr_dist.cli.main import main

if __name__ == "__main__":
    main()
