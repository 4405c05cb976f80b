"""The experiments of Ramesh et al. 2022 in miniature, one a file: each takes a Bench and a count and gives its part of docs/findings.md."""
