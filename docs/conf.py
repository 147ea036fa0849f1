"""The site: `make docs` builds it into build/site, with warnings as errors."""

import re
import sys
from pathlib import Path
from urllib.request import Request, urlopen

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "_extensions"))

project = author = "flatprior"
copyright = "the authors of flatprior"
version = release = re.search(r'__version__ = "(.*)"', (HERE.parent / "package" / "__init__.py").read_text())[1]  # type: ignore[index]

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.intersphinx",
    "myst_nb",
    "sphinx_copybutton",
    "generated",
    "pages",
    "references",
]
exclude_patterns = ["_extensions", "**/.ipynb_checkpoints"]
templates_path: list[str] = []

# Pages and notebooks. The notebooks have their outputs, which tests compare with the code; none is run here.
nb_execution_mode = "off"
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 4

# Docstrings. A name in single backticks is a link where it is that of something public, and code otherwise.
default_role = "py:obj"
add_module_names = False
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_inherit_docstrings = False
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_custom_sections = [("Warns", "returns_style")]
python_maximum_signature_line_length = 88
python_use_unqualified_type_names = True


def _is_there(url: str) -> bool:
    """Return whether another library's inventory can be read: without a network the site has no links to it."""
    try:
        urlopen(Request(f"{url}objects.inv", headers={"User-Agent": "Sphinx"}), timeout=5).close()
    except OSError:
        print(f"No links to {url}: its inventory cannot be read.")
        return False
    return True


intersphinx_mapping = {
    name: (url, None)
    for name, url in {
        "python": "https://docs.python.org/3/",
        "numpy": "https://numpy.org/doc/stable/",
        "jax": "https://docs.jax.dev/en/latest/",
        "numpyro": "https://num.pyro.ai/en/stable/",
        "optax": "https://optax.readthedocs.io/en/latest/",
        "arviz": "https://python.arviz.org/en/stable/",
        "sklearn": "https://scikit-learn.org/stable/",
        "xarray": "https://docs.xarray.dev/en/stable/",
    }.items()
    if _is_there(url)
}

smartquotes_action = "D"  # dashes; what is in quotes may be code

html_theme = "furo"
html_title = "flatprior"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
