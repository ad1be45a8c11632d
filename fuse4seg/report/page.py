"""Pages of a report from templates: in a folder with files beside them, or all in one file."""

from __future__ import annotations

import base64
import copy
import hashlib
import math
from collections.abc import Mapping, Sequence
from importlib.resources import files
from io import BytesIO
from pathlib import Path
from typing import Any

import jinja2
from jinja2.utils import htmlsafe_json_dumps
from markupsafe import Markup
from PIL import Image as Picture

from fuse4seg.files import written_whole
from fuse4seg.report.fetch_viewer import SCRIPT
from fuse4seg.report.pictures import Strip

OURS = files("fuse4seg.report")
STYLE, RATINGS, INDEX, VIEWER = "report.css", "ratings.js", "index.js", "viewer.js"
#: Sub-folders of a report, and of the package what is copied.
STATIC, CASES, DATA, PICTURES = "static", "cases", "data", "pictures"
LICENCE = "LICENSE.niivue.txt"
#: What the help says of keys.
RATING_KEYS = (("p f u", "rate the case: pass, fail, unsure; again: not rated"), ("n", "write a note"), ("?", "this list"))
LIST_KEYS = (("j k", "next case, the one before; Enter opens it"), ("/", "search"))
CASE_KEYS = (("[ ]", "the case before, the next one"), ("1 ... 9", "show a layer"), ("x", "exchange two layers: flicker"),
             ("s r", "segmentation, reference on and off"), ("o", "outlines"), ("- +", "opacity"),
             ("v", "next view: axial, coronal, sagittal, three planes, 3D"),
             ("← → ↑ ↓", "in the image: move the crosshair, turn the 3D view"), ("PgUp PgDn", "in the image: through the slices"))


class Pages:
    """Renders the templates of one report.

    Attributes:
        single: Whether all goes into one file.
        nonce: That scripts and styles of the report have, and nothing that a name could bring in.
    """

    def __init__(self, *, single: bool, nonce: str) -> None:
        self.single, self.nonce = single, nonce
        self._templates = jinja2.Environment(loader=jinja2.PackageLoader("fuse4seg.report"), autoescape=True,
                                             undefined=jinja2.StrictUndefined, trim_blocks=True)
        self._templates.filters |= {"number": shown_number, "signed": shown_signed}
        self._prefix = ""

    def render(self, template: str, **content: Any) -> str:
        """A page.

        Args:
            template: Its file's name.
            content: What the template names.
        """
        found = self._templates.get_template(template)
        return found.render(style=self.style, script=self.script, vendored=self.vendored, **content)

    def under(self, prefix: str) -> Pages:
        """The same for pages in a sub-folder, from where ``prefix`` leads back."""
        below = copy.copy(self)
        below._prefix = prefix
        return below

    def style(self, name: str) -> Markup:
        """Element of a style sheet."""
        if self.single:
            return Markup('<style nonce="{}">').format(self.nonce) + Markup(own_text(name)) + Markup("</style>")
        return Markup('<link rel="stylesheet" nonce="{}" href="{}">').format(self.nonce, f"{self._prefix}{STATIC}/{name}")

    def script(self, name: str) -> Markup:
        """Element of a script of ours."""
        return self._script(name, own_text(name))

    def vendored(self) -> Markup:
        """Element of the viewer's script."""
        return self._script(SCRIPT, viewer_script() or "")

    def _script(self, name: str, content: str) -> Markup:
        if self.single:
            # Within a script only its end tag and a comment's beginning would be read as something else.
            return (Markup('<script nonce="{}">').format(self.nonce)
                    + Markup(content.replace("</script", "<\\/script").replace("<!--", "<\\!--")) + Markup("</script>"))
        return Markup('<script nonce="{}" src="{}"></script>').format(self.nonce, f"{self._prefix}{STATIC}/{name}")


def own_text(name: str) -> str:
    """A static file of ours."""
    return (OURS / STATIC / name).read_text(encoding="utf-8")


def viewer_script() -> str | None:
    """NiiVue; None where it was not to be had when the package was built."""
    script = OURS / "viewer" / SCRIPT
    return script.read_text(encoding="utf-8") if script.is_file() else None


def viewer_licence() -> str:
    """NiiVue's."""
    return (OURS / "viewer" / "LICENSE").read_text(encoding="utf-8")


def as_script(name: str, layers: Mapping[str, Any]) -> str:
    """A case's layers as a file that a script element loads, as pages opened from disk may load nothing else."""
    return f"fuse4seg.layers[{htmlsafe_json_dumps(name)}] = {htmlsafe_json_dumps(layers)};\n"


def as_json(layers: Mapping[str, Any]) -> Markup:
    """The same within a page."""
    return htmlsafe_json_dumps(layers)


def picture_url(strip: Strip) -> str:
    """A strip as a data URL."""
    content = BytesIO()
    Picture.fromarray(strip.pixels).save(content, format="PNG")
    return f"data:image/png;base64,{base64.b64encode(content.getvalue()).decode()}"


def safe_names(names: Sequence[str]) -> dict[str, str]:
    """Names of files for cases, whatever those are called: letters that every system and every link takes.

    Args:
        names: Of the cases.

    Example:
        >>> safe_names(["case_1", "<b>", "CASE_1"])
        {'case_1': 'case_1', '<b>': '-b--507ca5a2', 'CASE_1': 'CASE_1-029cfd46'}
    """
    made: dict[str, str] = {}
    for name in names:
        safe = "".join(letter if letter.isascii() and (letter.isalnum() or letter in "._-") else "-" for letter in name)[:100]
        taken = {other.casefold() for other in made.values()}
        if safe != name or safe.casefold() in taken or safe.startswith((".", "-")) or safe.endswith("."):
            safe = f"{safe}-{hashlib.sha256(name.encode(errors='surrogatepass')).hexdigest()[:8]}"
        made[name] = safe
    return made


def shown_number(value: float | None, decimals: int) -> str:
    """A number, or a hyphen where there is none."""
    return "-" if value is None or math.isnan(value) else f"{value:.{decimals}f}"


def shown_signed(value: float | None) -> str:
    """Standard deviations off, with a sign."""
    return "-" if value is None or math.isnan(value) else f"{value:+.1f} sd"


def write_text(path: Path, content: str) -> Path:
    """Write a page or a script, whole or not at all."""
    with written_whole(path) as temporary:
        temporary.write_text(content, encoding="utf-8", errors="replace")
    return path
