"""What outlives a run: the outputs of frozen prefixes, kept on disk and found again."""
