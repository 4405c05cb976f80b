"""CARD.md of an exported checkpoint: its data, networks, figures and limits."""

from __future__ import annotations

from typing import Any

from training.evaluation.figures import markdown_table, wrap_markdown
from training.evaluation.solids.report import format_card_tables, format_counts

COMPARED_TYPES = ("one object", "two in relation")  # of both priors

_CARD = """# {name}

The bundled checkpoint: a small unCLIP pipeline (CLIP, both priors, 64² decoder, upsamplers to \
256² and 1024²) for synthetic scenes of spheres, cubes, cylinders and cones. With it a fresh \
machine generates images within seconds. It knows nothing else.

## Data

Scenes rendered by `training/scenes/solids/render.py`, mix `{mix}`, with the captions of \
`training/scenes/solids/captions.py`. No photographs, no people, no downloaded data. One caption \
in sixteen (by checksum) is held out (test split). One combination of colour, shape and relation \
in eleven is held out, too (compositional split).

## Networks

Trained by `python -m training {preset}`, exported by `python -m training.export`.

{networks}

## Figures

A scene classifier counts them on held-out captions of new scenes of the mix `{mix}`, at 64² with \
{steps} decoder steps and guidance {guidance}. "Main" is the objects (kind, colours, shapes, \
relation and count), a sign's word, or what the type is named after. "All" is everything in the \
caption. The last columns are the same counts over renderings of the scenes, which show how \
accurate the classifier is. Reproduce: `python -m training.evaluation --count {count}`.

{scores}
- CLIP: {retrieval:.1f} % of captions find their image among 512 new ones. Near duplicates are \
among those, and many captions match several.
- {components} principal components hold 99 % of the variance of z_i, of {dimensions} dimensions.
{upsamplers}

Both priors on the same captions and seeds: the mean cosine of their z_i to that of the scene's \
rendering. The caption's z_t has {caption_cosine:.3f}. Reproduce: `python -m training.evaluation \
--prior autoregressive`.

{priors}

## Limits

It generates the objects, colours, relations and places of `training/scenes/solids/scene.py`, in \
the words of `training/scenes/solids/captions.py`. Other words are accepted and mean little to it. \
It reads the first 77 tokens of a prompt.

## Licence

Apache-2.0, as the rest of the project.
"""


def format_card(
    report: dict[str, Any], figures: dict[str, Any], sizes: dict[str, int], preset: str
) -> str:
    """Return CARD.md.

    `report` is that of measure_accuracy with its "count", `figures` those of
    default_checkpoint.measure, `sizes` the number of parameters by network."""
    parameters = report["parameters"]
    networks = [
        [name, f"{count / 1e6:.2f} M", figures["steps"][name]] for name, count in sizes.items()
    ]
    text = _CARD.format(
        name=report["checkpoint"],
        mix=report["mix"],
        preset=preset,
        networks=markdown_table(["network", "parameters", "steps x batch"], networks),
        steps=parameters["decoder_num_inference_steps"],
        guidance=parameters["decoder_guidance_scale"],
        count=report["count"],
        scores=format_card_tables(report),
        retrieval=100 * figures["retrieval"],
        components=figures["components"],
        dimensions=figures["dimensions"],
        upsamplers="\n".join(
            map(_format_upsampler, *zip(*figures["upsamplers"].items(), strict=True))
        ),
        caption_cosine=figures["prior"]["caption"],
        priors=format_priors(figures["prior"]),
    )
    return wrap_markdown(text)


def _format_upsampler(name: str, figures: dict[str, dict[str, float]]) -> str:
    upsampler = figures["upsampler"]
    bicubic = figures["bicubic"]
    return (
        f"- {name}: {upsampler['psnr']:.1f} dB on crops of new renderings, bicubic enlargement "
        f"{bicubic['psnr']:.1f} dB; in CLIP's space {upsampler['distance']:.3f} from the crops "
        f"(1 - cosine), bicubic {bicubic['distance']:.3f}."
    )


def format_priors(figures: dict[str, Any]) -> str:
    """Return a table of both priors."""
    heads = [
        "prior",
        "cosine to z_i",
        *(f"{name}: right" for name in COMPARED_TYPES),
        f"s for {figures['embeddings']} embeddings",
    ]
    rows = [
        [
            name,
            f"{prior['cosine']:.3f}",
            *(format_counts(prior["right"][each]) for each in COMPARED_TYPES),
            f"{prior['seconds']:.1f}",
        ]
        for name, prior in figures["priors"].items()
    ]
    return markdown_table(heads, rows)
