"""Pages of one file, without network or scripts: blocks of content, templates that lay them out, charts as SVG.

blocks.py      what a page consists of
render.py      blocks to HTML, by the templates of `templates/`
plots.py       charts
markup.py      text in charts
"""
