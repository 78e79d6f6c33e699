"""Out-of-distribution detection: outputs of a classifier, scores of confidence, and rates of error."""
