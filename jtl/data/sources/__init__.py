"""Where labelled images come from.

`registry` opens a source by its name (see `schemes`) and makes a data set of it, read as
`source_options` says. It uses:

- class folders: `folder` (entry), `layout` (what a tree of folders means), `class_folders`,
  `split_folders`, `names` (what names of folders and files say), `part_names` (folders called as
  parts of one data set), `views` (folders that are bands or views of one thing), `items` (folders
  that are single things);
- lists that divide the images of class folders: `split_lists` (entry), `split_list_candidates`
  (which files may be such lists), `split_list_reader` (what one of them says), `split_column`,
  `image_index` (the images that they name);
- tables (`csv:`): `tables` (entry), `table_files` and `table_json` (reading them), `table_columns`,
  `table_splits`, `table_rows`, `table_labels`, `table_images`, `measurements` (numbers that are no
  classes), `table_sets` (several files), `metadata_tables` (Hugging Face's among images);
- labels in file names: `name_labels` (entry), `name_rules`; as numbers or text: `labels`;
  several for each image: `label_sets`;
- what lies beside images and is no image: `segmentations`, `paired_masks`, `label_lists`,
  `other_labels`, `unread_labels`; images that belong together: `image_groups`, `name_groups`;
- files and archives: `stores`, `archives`, `tar_headers`, `encoded` (decoding on demand);
- arrays: `npz`, `arrays`, `in_memory`, `cifar` (its pickles: `plain_pickle`), `matlab`, `idx`
  (MNIST's files); TensorFlow Datasets: `tfds`, `tfds_folder`;
- files of one split each: `file_splits`; Arrow's tables: `arrow_tables`, `parquet_columns`, in
  `parquet` and in `saved_datasets` (of Hugging Face's `datasets`);
  `webdataset`, `webdataset_labels`;
- copies of data at addresses: `remote`, `remote_places`; what ImageNet's classes are called:
  `class_titles`.
"""
