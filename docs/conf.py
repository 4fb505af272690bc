"""Configuration of the documentation: python -m sphinx -b html -W docs docs/_build/html."""

import os
import shutil
from datetime import UTC, datetime
from importlib.metadata import metadata
from pathlib import Path

HERE = Path(__file__).parent

info = metadata("scsiameseclu")
project = info["Name"]
author = "the scsiameseclu developers"
copyright = f"{datetime.now(tz=UTC):%Y}, {author}"
version = release = info["Version"]

# The tutorials live at the top of the repository, where tests and readers look for them.
shutil.copytree(HERE.parent / "tutorials", HERE / "tutorials", dirs_exist_ok=True)

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.intersphinx",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
]
templates_path = ["_templates"]
exclude_patterns = ["_build", "Thumbs.db", ".DS_Store", "**.ipynb_checkpoints"]
source_suffix = {".rst": "restructuredtext", ".md": "myst-nb", ".ipynb": "myst-nb"}
default_role = "literal"

autosummary_generate = True
autodoc_member_order = "bysource"
napoleon_google_docstring = False
napoleon_numpy_docstring = True
napoleon_use_rtype = True
napoleon_use_param = True
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented_params"
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True

myst_enable_extensions = ["amsmath", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # notebooks are stored with their outputs; a test runs them
nb_output_stderr = "remove"
nb_merge_streams = True

# Links to other projects need their inventories from the network: only where the documentation is published.
intersphinx_mapping = (
    {
        "python": ("https://docs.python.org/3", None),
        "anndata": ("https://anndata.scverse.org/en/stable/", None),
        "numpy": ("https://numpy.org/doc/stable/", None),
        "pandas": ("https://pandas.pydata.org/docs/", None),
        "scanpy": ("https://scanpy.scverse.org/en/stable/", None),
        "scvi": ("https://docs.scvi-tools.org/en/stable/", None),
        "torch": ("https://docs.pytorch.org/docs/stable/", None),
    }
    if os.environ.get("READTHEDOCS")
    else {}
)

html_theme = "sphinx_book_theme"
html_title = project
html_theme_options = {"navigation_with_keys": False, "show_toc_level": 2}
