"""Run a job: the same as `batch-jobs run`. Try: python scripts/run_job.py --help."""

import sys

from batch_jobs.cli import main

if __name__ == "__main__":
    main(["run", *sys.argv[1:]])
