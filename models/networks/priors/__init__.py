"""The two priors of the paper and what they share."""
