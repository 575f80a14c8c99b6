"""The networks: a hierarchical masked autoencoder and its fine-tuning heads."""
