"""Text-to-image latent diffusion: models, training, prototypes, guidance, sampling."""
