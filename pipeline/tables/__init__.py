"""Tables: built once from the records of runs, rendered as Markdown, LaTeX, CSV and HTML."""
