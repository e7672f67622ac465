"""What the benchmark scripts share: processes, facts, pictures, results, tables, plots."""
