"""Pages: a file for each question that has one, with `headline(result)` and `page(result)`; `default` for others."""
