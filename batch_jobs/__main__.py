"""`python -m batch_jobs`: the same as the console script."""

from batch_jobs.cli import main

if __name__ == "__main__":
    main()
