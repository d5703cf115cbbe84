"""What is kept: the ledger (the truth), the call cache, the folder store, and files made durable."""
