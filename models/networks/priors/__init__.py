"""The two priors of the paper, their transformer, and the principal components of z_i."""
