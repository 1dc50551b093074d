"""The report of a run: one offline page with tables, plots and a viewer of its debates."""
