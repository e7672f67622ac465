"""The converted checkpoint on disk: a folder with params, metadata and a model card."""
