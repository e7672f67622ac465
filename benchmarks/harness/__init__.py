"""What the benchmark scripts share: processes, facts, images, results, tables, plots."""
