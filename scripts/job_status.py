"""Look at a job and fetch its file: the same as `batch-jobs status`. Try: python scripts/job_status.py --help."""

import sys

from batch_jobs.cli import main

if __name__ == "__main__":
    main(["status", *sys.argv[1:]])
