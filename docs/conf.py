"""The documentation as a site: `make docs` builds it; warnings are errors.

The source folder is the repository, so that links between docs and benchmarks are the same on the
site and in a checkout.
"""

from importlib.metadata import version as version_of

project = "jtl"
version = release = version_of("jtl")
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
root_doc = "docs/index"
include_patterns = ["docs/**", "benchmarks/README.md", "benchmarks/results/**.md"]
exclude_patterns = ["docs/runs", "**.ipynb_checkpoints"]
html_theme = "furo"
html_title = "jtl"
html_copy_source = False
html_show_copyright = False
html_static_path = ["static"]
html_css_files = ["wrap.css"]
default_role = "code"
smartquotes = False  # Or `--data` would get a dash.
suppress_warnings = ["toc.not_included"]  # Tables of benchmarks, which pages link to.

myst_heading_anchors = 3  # Links to sections, as on a page of the repository.
# Pages show what this version prints, and a notebook that fails is an error.
nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_in_temp = True
nb_execution_timeout = 600
nb_merge_streams = True

autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
