"""The flow prior ``heads-flow``: a small SD3 transformer over the latents and captions of `heads`.

Autoencoder, tokenizer and text encoder are those of `heads`. The pipeline is an ordinary StableDiffusion3Pipeline
without T5. A training step costs only the transformer on 64 image tokens: its targets, latents and pooled texts are
computed once (:mod:`.data`), and a prompt reaches it as one pooled vector (:mod:`.network`).
"""
