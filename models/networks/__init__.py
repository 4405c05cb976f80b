"""The networks: CLIP, priors, decoder, upsamplers."""
