"""`jtl data clean`: likely wrong labels, near-duplicates and outliers, from features of images."""
