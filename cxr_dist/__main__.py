"""`python -m cxr_dist` runs the same command line as the console script `cxr-dist`."""

from cxr_dist.cli.main import main

if __name__ == "__main__":
    main()
