// Counts of distinct whitespace-delimited chunks of text.
