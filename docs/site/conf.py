"""Sphinx's settings; `build.py` calls it on a staged copy of the pages."""

project = "advcore"
author = "the authors of advcore"
extensions = ["myst_parser"]
root_doc = "index"
highlight_language = "none"  # of blocks that name none: commands
smartquotes = False  # quotes in docstrings are python's
html_theme = "furo"
html_title = "advcore"
html_static_path = ["static"]
html_css_files = ["style.css"]
html_copy_source = False
html_show_sourcelink = False
html_use_index = True
html_last_updated_fmt = None
html_show_copyright = False
html_show_sphinx = False
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 4  # the anchors that code-hosting pages give headings
suppress_warnings = ["ref.python"]  # of annotations whose short name two modules have
add_module_names = False
toc_object_entries_show_parents = "hide"
python_maximum_signature_line_length = 100
pygments_style, pygments_dark_style = "a11y-high-contrast-light", "a11y-high-contrast-dark"
