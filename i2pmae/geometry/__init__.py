"""Pure tensor functions on point clouds and depth maps."""
