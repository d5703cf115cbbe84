"""What the tests of the Python API share: scripts as processes, the sandbox's bill, small documents."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from tests.acceptance.kit import Sandbox, clean_environ, losses

BACKENDS = ("openai", "anthropic", "gemini")
MODELS = {"openai": "gpt-6-luna", "anthropic": "claude-haiku-5-5", "gemini": "gemini-3.5-flash-lite"}
SCRIPT_SECONDS = 120
FAULTS = [
    {"kind": "item_refused", "match": "please refuse this one"},
    {"kind": "item_invalid_json", "match": "please be invalid", "code": "schema"},
    {"kind": "rate_limited", "match": "please come later", "times": 1, "seconds": 0.01},
    {"kind": "quota_exhausted", "match": "please be poor", "times": 1},
]


def calls(sandbox: Sandbox) -> int:
    """How many calls were executed so far."""
    return sandbox.billed


def loss_frame(count: int) -> pd.DataFrame:
    """Loss events as a frame, under an index of its own."""
    return pd.DataFrame(losses(count)).set_index("id")


def start_script(source: str, folder: Path, environ: dict[str, str]) -> subprocess.Popen[str]:
    """Run a script as a user does: a file, by python, without a guard."""
    script = folder / "script.py"
    script.write_text(source, "utf-8")
    return subprocess.Popen(
        [sys.executable, script.name],
        cwd=folder,
        env=clean_environ({**environ, "XDG_CACHE_HOME": str(folder / "cache")}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run_script(source: str, folder: Path, environ: dict[str, str]) -> str:
    """Run a script to its good end; returns what it printed."""
    process = start_script(source, folder, environ)
    out, err = process.communicate(timeout=SCRIPT_SECONDS)
    assert process.returncode == 0, err
    return out


def pdf_of(pages: Sequence[str]) -> bytes:
    """A PDF with a line of plain text a page; an empty one is a blank page."""
    kids = " ".join(f"{4 + 2 * number} 0 R" for number in range(len(pages)))
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>".encode(),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    for number, text in enumerate(pages):
        content = f"BT /F1 10 Tf 14 TL 40 780 Td ({text}) Tj ET".encode()
        objects.append(
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] /Resources << /Font << /F1 3 0 R >> >> "
            f"/Contents {5 + 2 * number} 0 R >>".encode()
        )
        objects.append(f"<< /Length {len(content)} >>\nstream\n".encode() + content + b"\nendstream")
    return pdf_with(objects)


def pdf_with(objects: Sequence[bytes]) -> bytes:
    """A PDF of these objects, the first its catalog."""
    made, offsets = b"%PDF-1.4\n", []
    for number, body in enumerate(objects, 1):
        offsets.append(len(made))
        made += f"{number} 0 obj\n".encode() + body + b"\nendobj\n"
    table = f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n".encode()
    table += b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    return (
        made + table + f"trailer\n<< /Size {len(objects) + 1} /Root 1 0 R >>\nstartxref\n{len(made)}\n%%EOF\n".encode()
    )
