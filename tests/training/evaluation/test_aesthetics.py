"""The probe of people's ratings: its CSV, its regression, and a folder that it rates."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from training.evaluation import aesthetics


def test_ratings_are_means_or_counts(tmp_path: Path) -> None:
    """AVA's counts of 1 to 10 give their mean; paths are relative to the CSV's folder."""
    means = tmp_path / "means.csv"
    counts = tmp_path / "counts.csv"
    means.write_text("path,rating\na.png,5.5\n")
    counts.write_text("path,1,2,3,4,5,6,7,8,9,10\nb.png,0,0,0,0,1,0,0,0,0,3\n")
    assert aesthetics.read_ratings(means) == [aesthetics.Rating(tmp_path / "a.png", 5.5)]
    assert aesthetics.read_ratings(counts) == [aesthetics.Rating(tmp_path / "b.png", (5 + 30) / 4)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,rating\na,1\n", "needs path"),
        ("path,rating\na,1\nb,good\n", "line 3"),
        ("path,1\na,1\n", "needs path"),
    ],
)
def test_invalid_ratings_are_refused(tmp_path: Path, text: str, message: str) -> None:
    """The message names the file's columns or the line."""
    (tmp_path / "ratings.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        aesthetics.read_ratings(tmp_path / "ratings.csv")


def test_the_regression_finds_a_linear_rule() -> None:
    """Predicted ratings of held-out embeddings correlate with the true ones.

    Ratings of pure noise give a larger penalty and no correlation."""
    numbers = torch.Generator().manual_seed(0)
    z = torch.randn(400, 16, generator=numbers)
    weights = torch.randn(16, generator=numbers)
    fitted = aesthetics.fit_and_test(z, z @ weights + 5 + 0.1 * torch.randn(400, generator=numbers))
    assert fitted.held_out == 80
    assert fitted.pearson > 0.99
    assert fitted.spearman > 0.98
    assert torch.allclose(fitted.probe.weights.float(), weights, atol=0.05)
    assert fitted.probe.bias == pytest.approx(5, abs=0.05)
    noise = aesthetics.fit_and_test(z, torch.randn(400, generator=numbers))
    assert abs(noise.pearson) < 0.35
    assert noise.probe.alpha > fitted.probe.alpha


def test_the_penalty_is_chosen_by_leaving_one_out() -> None:
    """The closed form finds the same penalty as n fits without one rating each."""
    numbers = torch.Generator().manual_seed(1)
    z = torch.randn(24, 6, generator=numbers).double()
    y = torch.randn(24, generator=numbers).double()

    def error(alpha: float) -> float:
        total = 0.0
        for k in range(len(z)):
            rest = [n for n in range(len(z)) if n != k]
            x = z[rest] - z[rest].mean(0)
            mean = y[rest].mean()
            weights = torch.linalg.solve(
                x.T @ x + alpha * torch.eye(6).double(), x.T @ (y[rest] - mean)
            )
            total += float(mean + (z[k] - z[rest].mean(0)) @ weights - y[k]) ** 2
        return total

    assert aesthetics.fit(z, y).alpha == min(aesthetics.ALPHAS, key=error)


def test_a_folder_is_rated_best_first(
    tiny_checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A probe of brightness sorts grey images."""
    lines = ["path,rating"]
    for k in range(40):
        Image.new("RGB", (80, 64), (6 * k,) * 3).save(tmp_path / f"{k:02}.png")
        lines.append(f"{k:02}.png,{k / 4}")
    (tmp_path / "ratings.csv").write_text("\n".join(lines))
    monkeypatch.setattr(
        sys,
        "argv",
        [
            "aesthetics",
            str(tmp_path / "ratings.csv"),
            "--rate",
            str(tmp_path),
            "--checkpoint",
            str(tiny_checkpoint),
        ],
    )
    aesthetics.main()
    head, *lines_out = capsys.readouterr().out.splitlines()
    assert "40 ratings, 8 of them held out" in head
    assert len(lines_out) == 40
    scores = [float(line.split()[0]) for line in lines_out]
    assert scores == sorted(scores, reverse=True)
    assert {line.split()[1] for line in lines_out[:5]} <= {f"{k:02}.png" for k in range(28, 40)}
