"""Fetches NiiVue, the viewer of reports, from its npm package: when ours is built or installed, or by hand.

    python -m fuse4seg.report.fetch_viewer

Needs nothing but Python and npm, as it runs before anything else is installed.
"""

from __future__ import annotations

import base64
import hashlib
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

PACKAGE = "@niivue/niivue@0.69.0"
#: As npm gives it: dist.integrity of that version.
SHA512 = "YMjQvJgD1W2b7DuoxkwlC4VxbrgIePRJ5qyQzXKxi2v2MBVg285P/CIQyg46oDDGDIcaNlbd+MhtO/edMbXJkA=="
FOLDER = Path(__file__).parent / "viewer"
#: What of the package is wanted, and its name here.
MEMBER, SCRIPT = "package/dist/niivue.umd.js", "niivue.umd.js"
#: Seconds; a registry that cannot be reached ends no build.
PATIENCE = 120


def fetch_viewer(folder: Path = FOLDER) -> Path | None:
    """Put the viewer's script into a folder unless it is there.

    Args:
        folder: Exists; the viewer's licence lies there already.

    Returns:
        The script; None where it could not be had, which is said on stderr in one line.
    """
    script = folder / SCRIPT
    if script.is_file():
        return script
    try:
        content = _script_of(_package())
    # What npm, its absence, or a damaged archive end in.
    except (OSError, ValueError, KeyError, subprocess.SubprocessError, tarfile.TarError) as error:
        said = str(getattr(error, "stderr", "") or error).strip().splitlines()
        sys.stderr.write(f"warning: reports will have no interactive viewer: {PACKAGE} could not be fetched with npm "
                         f"({said[-1] if said else type(error).__name__}). Later: python -m fuse4seg.report.fetch_viewer\n")
        return None
    temporary = script.with_suffix(".partial")
    temporary.write_bytes(content)
    temporary.replace(script)
    return script


def _package() -> bytes:
    """The archive, as npm packs it.

    Raises:
        ValueError: It is another one than that which was checked.
    """
    with tempfile.TemporaryDirectory() as folder:
        packed = subprocess.run(["npm", "pack", PACKAGE, "--silent", "--pack-destination", folder], cwd=folder, check=True,
                                capture_output=True, text=True, timeout=PATIENCE, stdin=subprocess.DEVNULL)
        archive = Path(folder, packed.stdout.strip().splitlines()[-1]).read_bytes()
    if base64.b64encode(hashlib.sha512(archive).digest()).decode() != SHA512:
        raise ValueError("its checksum is not the one known")
    return archive


def _script_of(archive: bytes) -> bytes:
    with tempfile.TemporaryFile() as stream:
        stream.write(archive)
        stream.seek(0)
        with tarfile.open(fileobj=stream) as package:
            return package.extractfile(MEMBER).read()


if __name__ == "__main__":
    sys.exit(0 if fetch_viewer() else 1)
