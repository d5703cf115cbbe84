"""The Python API: DataFrames, texts and documents in, the same with answers out; re-exported by `batch_jobs`.

A thin layer over the lifecycle, beside the command line and the HTTP API: the same jobs, the same store.
"""

import logging

logging.getLogger("batch_jobs").addHandler(logging.NullHandler())
