"""Why OpenAI fails a batch at its validation: the codes, and the words that come with each.

The provider publishes no list; these are the codes that clients report.
"""

from __future__ import annotations

_FILE_MESSAGES = {
    "token_limit_exceeded": "Enqueued token limit reached for this model in organization org-sim. Limit: 2,000,000 "
    "enqueued tokens. Please try again once some in_progress batches have been completed.",
    "billing_hard_limit_reached": "Billing hard limit has been reached.",
    "empty_file": "The batch input file is empty.",
    "too_many_tasks": "The batch input file contains too many requests.",
}
_LINE_MESSAGES = {
    "invalid_json_line": "This line is not parseable as valid JSON.",
    "missing_required_parameter": "This request lacks a required parameter.",
    "duplicate_custom_id": "The custom_id of this request was used before.",
    "url_mismatch": "The URL provided for this request does not match the batch endpoint.",
    "model_mismatch": "The model provided for this request does not match the batch's.",
    "mismatched_model": "The model provided for this request does not match the batch's.",  # an older name of it
}
LINE_CODES = frozenset(_LINE_MESSAGES)
"""Codes that come with the number of a line."""

MESSAGES = {code: f"{words} (simulated)" for code, words in (_FILE_MESSAGES | _LINE_MESSAGES).items()}
"""What is said for each code."""
