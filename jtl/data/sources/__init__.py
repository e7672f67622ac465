"""Where labelled images come from: a file for each kind of source."""
