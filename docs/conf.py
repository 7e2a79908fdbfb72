"""Sphinx settings of the documentation. `make docs` builds it in `build/site`; every warning is an error.

The source folder is the repository, so that links between pages, notebooks and the README are the same files here and
on a code host.
"""

import sys
from importlib.metadata import version as installed_version
from pathlib import Path

from docutils import nodes
from sphinx.util.osutil import relative_uri

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "generators"))

from api_pages import write_api_pages  # noqa: E402 - beside this file

project = "emg-lens"
author = "The emg-lens developers"
copyright = author
release = version = installed_version("emg-lens")
root_doc = "docs/index"
include_patterns = ["docs/*.md", "docs/api/*.rst", "notebooks/*.ipynb", "README.md", "CONTRIBUTING.md", "CHANGELOG.md"]
exclude_patterns = ["build", "runs", "dist", ".*", "**/.*", "emg_lens", "hooks", "studies", "tests", "*.egg-info"]
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinx_design",
]
default_role = "code"  # docstrings write `names` in single backticks, as Markdown does
highlight_language = "text"

myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 4
nb_execution_mode = "off"  # notebooks are stored with their outputs

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
autosummary_generate = False
napoleon_use_ivar = True
napoleon_attr_annotations = False  # a shape such as `*step target` is not reStructuredText
python_maximum_signature_line_length = 88

html_theme = "furo"
html_title = "emg-lens"
html_static_path = ["static"]
html_css_files = ["pages.css"]
html_show_copyright = False
html_copy_source = False
linkcheck_timeout = 20
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

REDIRECT = '<!doctype html><meta http-equiv="refresh" content="0; url=docs/index.html">\n'


def _write_start_page(app, exception) -> None:
    """Let the folder of the site open with the first page."""
    if exception is None and app.builder.name == "html":
        (Path(app.outdir) / "index.html").write_text(REDIRECT, encoding="utf-8")


def _link_images(app, doctree, page) -> None:
    """Let each image of a page open its full file, as figures may be shrunk."""
    for image in list(doctree.findall(nodes.image)):
        if image["uri"] in app.env.images and not isinstance(image.parent, nodes.reference):
            file = f"{app.builder.imagedir}/{app.env.images[image['uri']][1]}"
            link = nodes.reference("", "", internal=True, refuri=relative_uri(app.builder.get_target_uri(page), file))
            image.replace_self(link)
            link += image


def setup(app) -> None:
    """Write the pages of the API before Sphinx looks for pages."""
    app.connect("builder-inited", lambda app: write_api_pages(Path(app.srcdir)))
    app.connect("doctree-resolved", _link_images)
    app.connect("build-finished", _write_start_page)
