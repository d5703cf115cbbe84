"""What each provider takes: sizes of a batch, and the request fields it knows.

Field names come from the installed SDKs, read as source: importing them would cost a second and 100 MB for a list
of words.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.util import find_spec
from pathlib import Path

from batch_jobs.models import Dialect

from .behaviour import Behaviour

CUSTOM_ID = re.compile(r"^[a-zA-Z0-9_-]{1,64}$")
INLINE_BYTES = 20_000_000


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """The most one batch may hold; 0 requests stands for no known limit."""

    requests: int
    bytes: int


_PROVIDERS = {
    Dialect.OPENAI: BatchLimits(50_000, 200 * 1024 * 1024),
    Dialect.ANTHROPIC: BatchLimits(100_000, 256 * 1024 * 1024),
    Dialect.GEMINI: BatchLimits(0, 2 * 1024 * 1024 * 1024),
}


def batch_limits(dialect: Dialect, behaviour: Behaviour) -> BatchLimits:
    """Give the provider's limits, or the tighter ones that the behaviour asks for."""
    usual = _PROVIDERS[dialect]
    return BatchLimits(behaviour.max_batch_requests or usual.requests, behaviour.max_batch_bytes or usual.bytes)


@cache
def known_fields(dialect: Dialect, endpoint: str = "") -> frozenset[str]:
    """Give the top-level field names of a request body.

    Args:
        dialect: the provider; Gemini's fields are listed here, in REST camelCase.
        endpoint: for OpenAI, `/v1/chat/completions` or `/v1/responses`.
    """
    if dialect is Dialect.GEMINI:
        return GEMINI_FIELDS
    if dialect is Dialect.ANTHROPIC:
        # These two travel as headers.
        return _typed_dict_keys("anthropic", "types/message_create_params.py", "MessageCreateParams") - {
            "user_profile_id",
            "workspace_id",
        }
    if endpoint == "/v1/responses":
        return _typed_dict_keys("openai", "types/responses/response_create_params.py", "ResponseCreateParams")
    return _typed_dict_keys("openai", "types/chat/completion_create_params.py", "CompletionCreateParams")


def _typed_dict_keys(package: str, path: str, prefix: str) -> frozenset[str]:
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise RuntimeError(f"The {package} SDK is not installed; its request fields can't be read.")
    tree = ast.parse((Path(spec.origin).parent / path).read_text(encoding="utf-8"))
    classes = (node for node in tree.body if isinstance(node, ast.ClassDef) and node.name.startswith(prefix))
    parts = (part for each in classes for part in each.body if isinstance(part, ast.AnnAssign))
    return frozenset(part.target.id for part in parts if isinstance(part.target, ast.Name))


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


GEMINI_FIELDS = _words(
    "model contents tools toolConfig safetySettings systemInstruction generationConfig cachedContent serviceTier "
    "store labels continuationToken"
)

GEMINI_GENERATION_FIELDS = _words(
    "stopSequences responseMimeType responseSchema responseJsonSchema responseModalities candidateCount "
    "maxOutputTokens temperature topP topK seed presencePenalty frequencyPenalty responseLogprobs logprobs "
    "enableEnhancedCivicAnswers speechConfig thinkingConfig imageConfig mediaResolution audioTranscriptionConfig "
    "responseFormat translationConfig enableAffectiveDialog"
)

GEMINI_PART_FIELDS = _words(
    "text thought thoughtSignature inlineData fileData functionCall functionResponse executableCode "
    "codeExecutionResult videoMetadata audioMetadata documentMetadata speechMetadata spreadsheetMetadata partMetadata "
    "audioTranscription mediaProcessing mediaResolution toolCall toolResponse"
)


@lru_cache(maxsize=1024)
def camel(name: str) -> str:
    """Give the REST name of a field; proto JSON takes both forms."""
    head, *rest = name.split("_")
    return head + "".join(part[:1].upper() + part[1:] for part in rest)
