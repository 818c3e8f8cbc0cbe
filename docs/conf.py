"""How the pages are built (`make docs`): the guides, the interface from its docstrings, and the tour, executed."""

from __future__ import annotations

import shutil
from pathlib import Path

from voicestyle import __version__

HERE = Path(__file__).resolve().parent
shutil.copy(HERE.parent / "examples" / "tour.ipynb", HERE / "tour.ipynb")

project, release, language = "voicestyle", __version__, "en"
extensions = [
    "myst_nb",
    "sphinx.ext.apidoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.githubpages",  # a file that tells a static host to take names with underscores as they are
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"voicestyle {release}"

# The interface: docstrings have `code` in single backticks. Commands and the server have pages of their own.
default_role = "code"
SOURCE = HERE.parent / "src" / "voicestyle"
apidoc_modules = [
    {
        "path": str(SOURCE),
        "destination": "api",
        "exclude_patterns": [f"{SOURCE}/cli*", f"{SOURCE}/web*", f"{SOURCE}/__main__.py"],
        "separate_modules": True,
        "module_first": True,
    }
]
autodoc_default_options = {
    "members": True,
    "member-order": "bysource",
    "show-inheritance": False,
    "ignore-module-all": True,  # a name is documented where it is defined, and nowhere else
}
autodoc_typehints = "signature"
autodoc_mock_imports = ["dask_jobqueue", "distributed", "gdown", "open_clip", "torch_fidelity"]  # large extras
napoleon_numpy_docstring = False

myst_heading_anchors = 3

nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_timeout = 1200  # seconds
