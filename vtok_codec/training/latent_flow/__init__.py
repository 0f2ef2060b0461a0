"""Training of latent flows, which draw the continuous latents of a codec (`vtok_codec.models.latent_flow`)."""
