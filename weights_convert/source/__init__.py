"""Where weights come from: hubs, packages, files, and what is known of them."""
