"""Small repetitions of the experiments of Ramesh et al. 2022, one a file.

Each has `measure(bench, count) -> Result` and `report(result) -> str`, its part of the page.
"""
